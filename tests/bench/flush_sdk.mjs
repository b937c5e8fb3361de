// What the official JavaScript SDK costs for the same work as a flush: uploads a raw file to a
// page blob in pieces of 4 MiB, eight at once, and snapshots it. Prints JSON: bytes, seconds,
// processor seconds.
//
//   node flush_sdk.mjs CONNECTION_STRING CONTAINER BLOB FILE
import { open } from "node:fs/promises";
import { createRequire } from "node:module";

const require = createRequire(new URL("../azurite/package.json", import.meta.url));
const { BlobServiceClient } = require("@azure/storage-blob");

const [connectionString, container, name, path] = process.argv.slice(2);
const piece = 4 << 20;
const file = await open(path);
const { size } = await file.stat();
const service = BlobServiceClient.fromConnectionString(connectionString);
const client = service.getContainerClient(container);
await client.createIfNotExists();
const blob = client.getPageBlobClient(name);
await blob.create(size);

const began = process.hrtime.bigint();
const before = process.cpuUsage();
let next = 0;
async function worker() {
  while (next < size) {
    const offset = next;
    next += piece;
    const length = Math.min(piece, size - offset);
    const data = Buffer.allocUnsafe(length);
    await file.read(data, 0, length, offset);
    await blob.uploadPages(data, offset, length);
  }
}
await Promise.all(Array.from({ length: 8 }, worker));
await blob.createSnapshot();
const used = process.cpuUsage(before);
await file.close();
console.log(JSON.stringify({
  bytes: size,
  seconds: Number(process.hrtime.bigint() - began) / 1e9,
  cpu_seconds: (used.user + used.system) / 1e6,
}));
