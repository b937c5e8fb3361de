#!/usr/bin/env python3
"""The strict server against Azure's own Python SDK: the honest proof that it speaks the protocol.

Needs Debian's python3-azure-storage; skipped (77) without it.
"""
import json
import os
import ssl
import sys
import time
import unittest
import urllib.request
import uuid
from datetime import datetime, timedelta, timezone

try:
    from azure.core import MatchConditions
    from azure.core.credentials import AccessToken
    from azure.core.exceptions import (ClientAuthenticationError, HttpResponseError,
                                       ResourceExistsError, ResourceModifiedError,
                                       ResourceNotFoundError)
    from azure.storage.blob import (AccountSasPermissions, BlobBlock, BlobClient,
                                    BlobLeaseClient, BlobSasPermissions, BlobServiceClient,
                                    ContainerSasPermissions, ResourceTypes, SequenceNumberAction,
                                    generate_account_sas, generate_blob_sas,
                                    generate_container_sas)
except ImportError:
    print("skipped: python3-azure-storage is not installed")
    sys.exit(77)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from testing import MIB, ServerCase, TlsServerCase, admin       # noqa: E402


class SdkCase(ServerCase):
    def setUp(self):
        super().setUp()
        self.service = BlobServiceClient.from_connection_string(
            self.server["connection_string"], retry_total=0)
        self.name = "c" + uuid.uuid4().hex[:12]
        self.container = self.service.create_container(self.name)

    def blob(self, name="d.vhd", size=16 * MIB, **kwargs):
        blob = self.container.get_blob_client(name)
        blob.create_page_blob(size, **kwargs)
        return blob

    def refused(self, code, call, *args, **kwargs):
        with self.assertRaises(HttpResponseError) as caught:
            call(*args, **kwargs)
        self.assertEqual(caught.exception.error_code, code, caught.exception)
        return caught.exception.status_code

    def ranges(self, blob, **kwargs):
        pages, cleared = blob.get_page_ranges(**kwargs)
        return ([(r["start"], r["end"] + 1) for r in pages],
                [(r["start"], r["end"] + 1) for r in cleared])


class Containers(SdkCase):
    def test_life(self):
        self.refused("ContainerAlreadyExists", self.service.create_container, self.name)
        self.assertTrue(self.container.exists())
        self.assertIn(self.name, [c.name for c in self.service.list_containers()])
        self.container.delete_container()
        self.assertFalse(self.container.exists())
        self.refused("ContainerNotFound", self.container.delete_container)
        self.refused("InvalidResourceName", self.service.create_container, "NotGood")

    def test_listing_in_pages(self):
        names = [f"machines/m{i}/disk-é-{i} &.vhd" for i in range(7)] + ["vault.json"]
        for name in names[:-1]:
            blob = self.blob(name, 512, metadata={"Group": "g", "k": "1"})
            blob.create_snapshot(metadata={"tag": "x<&>"})
        self.container.upload_blob("vault.json", b"{}")
        for per_page in (1, 2, 3, 100):
            found = [(b.name, bool(b.snapshot)) for b in self.container.list_blobs(
                include=["snapshots", "metadata"], results_per_page=per_page)]
            self.assertEqual(found, [(n, s) for n in names[:-1] for s in (True, False)]
                             + [("vault.json", False)])
        first = next(self.container.list_blobs(include=["snapshots", "metadata"]))
        self.assertEqual(first.metadata, {"tag": "x<&>"})
        self.assertEqual([b.name for b in self.container.list_blobs("machines/m3/")], [names[3]])
        walked = [b.name for b in self.container.walk_blobs(delimiter="/", results_per_page=1)]
        self.assertEqual(walked, ["machines/", "vault.json"])
        walked = [b.name for b in self.container.walk_blobs("machines/", delimiter="/",
                                                            results_per_page=2)]
        self.assertEqual(walked, [f"machines/m{i}/" for i in range(7)])


class Pages(SdkCase):
    def test_write_read_clear(self):
        blob, data = self.blob(), os.urandom(MIB)
        answer = blob.upload_page(data, MIB, len(data), validate_content=True)
        self.assertIn("etag", answer)
        blob.clear_page(MIB + 4096, 8192)
        expected = bytearray(16 * MIB)
        expected[MIB:2 * MIB] = data
        expected[MIB + 4096:MIB + 12288] = bytes(8192)
        self.assertEqual(blob.download_blob().readall(), bytes(expected))
        self.assertEqual(blob.download_blob(MIB + 100, 5000).readall(),
                         bytes(expected[MIB + 100:MIB + 5100]))
        self.assertEqual(blob.download_blob(MIB, 4096, validate_content=True).readall(),
                         data[:4096])
        self.assertEqual(self.ranges(blob), ([(MIB, MIB + 4096), (MIB + 12288, 2 * MIB)], []))
        self.assertEqual(self.ranges(blob, offset=MIB + 512, length=512),
                         ([(MIB + 512, MIB + 1024)], []))
        self.assertEqual(blob.get_blob_properties().size, 16 * MIB)

    def test_eight_tebibytes(self):
        size = 8 << 40
        blob = self.blob(size=size)
        blob.upload_page(b"z" * 512, size - 512, 512)
        blob.clear_page(0, size - 512)
        self.assertEqual(self.ranges(blob), ([(size - 512, size)], []))
        self.assertEqual(blob.download_blob(size - 600, 600).readall(), bytes(88) + b"z" * 512)
        self.refused("InvalidHeaderValue", self.blob, "big", size + 512)
        self.refused("InvalidPageRange", blob.upload_page, b"z" * 512, size, 512)

    def test_snapshots_are_frozen(self):
        blob = self.blob(size=MIB, metadata={"who": "base"})
        blob.upload_page(b"a" * 4096, 0, 4096)
        one = blob.create_snapshot()["snapshot"]
        two = blob.create_snapshot(metadata={"group": "g", "k": "7"})["snapshot"]
        self.assertLess(one, two)
        blob.upload_page(b"b" * 1024, 512, 1024)
        blob.clear_page(3072, 1024)
        frozen = self.container.get_blob_client("d.vhd", snapshot=one)
        self.assertEqual(frozen.download_blob(0, 4096).readall(), b"a" * 4096)
        self.assertEqual(blob.download_blob(0, 4096).readall(),
                         b"a" * 512 + b"b" * 1024 + b"a" * 1536 + bytes(1024))
        self.assertEqual(frozen.get_blob_properties().metadata, {"who": "base"})
        other = self.container.get_blob_client("d.vhd", snapshot=two)
        self.assertEqual(other.get_blob_properties().metadata, {"group": "g", "k": "7"})
        self.refused("SnapshotsPresent", blob.delete_blob)
        frozen.delete_blob()
        self.assertFalse(frozen.exists())
        self.assertEqual(other.download_blob(0, 4096).readall(), b"a" * 4096)
        blob.delete_blob(delete_snapshots="only")
        self.assertFalse(other.exists())
        blob.create_snapshot()
        blob.delete_blob(delete_snapshots="include")
        self.assertFalse(blob.exists())

    def test_diff(self):
        blob = self.blob(size=MIB)
        blob.upload_page(b"a" * 8192, 0, 8192)
        one = blob.create_snapshot()["snapshot"]
        blob.upload_page(b"b" * 512, 1024, 512)
        blob.clear_page(4096, 1024)
        blob.upload_page(b"c" * 512, 65536, 512)
        two = blob.create_snapshot()["snapshot"]
        blob.upload_page(b"d" * 512, 131072, 512)
        at_two = self.container.get_blob_client("d.vhd", snapshot=two)
        expected = ([(1024, 1536), (65536, 66048)], [(4096, 5120)])
        self.assertEqual(self.ranges(at_two, previous_snapshot_diff=one), expected)
        expected[0].append((131072, 131584))
        self.assertEqual(self.ranges(blob, previous_snapshot_diff=one), expected)
        self.assertEqual(self.ranges(blob, previous_snapshot_diff=two),
                         ([(131072, 131584)], []))
        at_one = self.container.get_blob_client("d.vhd", snapshot=one)
        self.refused("PreviousSnapshotCannotBeNewer", at_one.get_page_ranges,
                     previous_snapshot_diff=two)
        self.blob(size=MIB)     # Put Blob again
        self.assertEqual(self.refused("BlobOverwritten", blob.get_page_ranges,
                                      previous_snapshot_diff=one), 409)
        self.assertEqual(at_one.download_blob(0, 8192).readall(), b"a" * 8192)

    def test_sequence_numbers(self):
        blob = self.blob(size=MIB, sequence_number=5)
        blob.set_sequence_number(SequenceNumberAction.Increment)
        blob.set_sequence_number(SequenceNumberAction.Max, "3")
        self.assertEqual(blob.get_blob_properties().page_blob_sequence_number, 6)
        blob.set_sequence_number(SequenceNumberAction.Update, "2")
        page = (b"x" * 512, 0, 512)
        for condition, number, holds in (("eq", 2, True), ("eq", 3, False), ("lte", 2, True),
                                         ("lte", 1, False), ("lt", 3, True), ("lt", 2, False)):
            option = {f"if_sequence_number_{condition}": number}
            if holds:
                blob.upload_page(*page, **option)
                blob.clear_page(0, 512, **option)
            else:
                code = self.refused("SequenceNumberConditionNotMet", blob.upload_page, *page,
                                    **option)
                self.assertEqual(code, 412)
                self.refused("SequenceNumberConditionNotMet", blob.clear_page, 0, 512, **option)

    def test_from_url(self):
        blob, data = self.blob(size=MIB), os.urandom(8192)
        blob.upload_page(data, 0, 8192)
        snapshot = blob.create_snapshot()["snapshot"]
        blob.clear_page(0, MIB)
        sas = generate_blob_sas(self.server["account"], self.name, "d.vhd", snapshot=snapshot,
                                account_key=self.server["key"], permission="r",
                                expiry=datetime.now(timezone.utc) + timedelta(minutes=5))
        source = f"{blob.url}?snapshot={snapshot}"
        with self.assertRaises(HttpResponseError):
            blob.upload_pages_from_url(source, offset=0, length=4096, source_offset=4096)
        blob.upload_pages_from_url(f"{source}&{sas}", offset=0, length=4096, source_offset=4096)
        self.assertEqual(blob.download_blob(0, 8192).readall(), data[4096:] + bytes(4096))

    def test_resize(self):
        blob = self.blob(size=MIB)
        blob.upload_page(b"x" * 4096, 0, 4096)
        blob.resize_blob(1024)
        blob.resize_blob(MIB)
        self.assertEqual(self.ranges(blob), ([(0, 1024)], []))
        self.refused("InvalidHeaderValue", blob.resize_blob, 1000)

    def test_etags(self):
        blob = self.blob(size=MIB)
        etag = blob.get_blob_properties().etag
        blob.upload_page(b"x" * 512, 0, 512, etag=etag, match_condition=MatchConditions.IfNotModified)
        with self.assertRaises(ResourceModifiedError):
            blob.upload_page(b"x" * 512, 0, 512, etag=etag,
                             match_condition=MatchConditions.IfNotModified)


class Blocks(SdkCase):
    def test_upload_and_conditions(self):
        blob = self.container.get_blob_client("owner.json")
        blob.upload_blob(b'{"a":1}', overwrite=False)
        with self.assertRaises(ResourceExistsError):
            blob.upload_blob(b"other", overwrite=False)
        etag = blob.get_blob_properties().etag
        blob.upload_blob(b"two", overwrite=True, etag=etag,
                         match_condition=MatchConditions.IfNotModified)
        with self.assertRaises(ResourceModifiedError):
            blob.upload_blob(b"three", overwrite=True, etag=etag,
                             match_condition=MatchConditions.IfNotModified)
        self.assertEqual(blob.download_blob().readall(), b"two")

    def test_blocks(self):
        blob = self.container.get_blob_client("bulk")
        for name in ("a", "b", "c"):
            blob.stage_block(name, name.encode() * 1000, validate_content=True)
        self.assertEqual(len(blob.get_block_list("all")[1]), 3)
        self.assertFalse(blob.exists())
        blob.commit_block_list([BlobBlock("c"), BlobBlock("a")])
        self.assertEqual(blob.download_blob().readall(), b"c" * 1000 + b"a" * 1000)
        self.refused("InvalidBlockList", blob.commit_block_list, [BlobBlock("b")])
        small = BlobServiceClient.from_connection_string(
            self.server["connection_string"], max_block_size=MIB, max_single_put_size=MIB)
        big = small.get_blob_client(self.name, "big")
        big.upload_blob(os.urandom(3 * MIB))
        self.assertEqual(len(big.get_block_list()[0]), 3)


class Leases(SdkCase):
    def test_writes(self):
        blob = self.blob(size=MIB)
        page = (b"x" * 512, 0, 512)
        lease = blob.acquire_lease(15)
        self.assertEqual(self.refused("LeaseIdMissing", blob.upload_page, *page), 412)
        self.assertEqual(self.refused("LeaseIdMismatchWithBlobOperation", blob.upload_page,
                                      *page, lease=str(uuid.uuid4())), 409)
        blob.upload_page(*page, lease=lease)
        blob.create_snapshot()
        blob.create_snapshot(lease=lease)
        self.refused("LeaseIdMismatchWithBlobOperation", blob.create_snapshot,
                     lease=str(uuid.uuid4()))
        self.refused("LeaseIdMissing", blob.delete_blob, delete_snapshots="include")
        self.refused("LeaseIdMissing", blob.set_sequence_number, "increment")
        self.refused("LeaseIdMissing", blob.clear_page, 0, 512)
        lease.renew()
        old = lease.id
        lease.change(str(uuid.uuid4()))
        self.refused("LeaseIdMismatchWithBlobOperation", blob.upload_page, *page, lease=old)
        admin(self.server, "POST", "/lease", {"container": self.name, "blob": "d.vhd",
                                              "action": "expire"})
        self.assertEqual(self.refused("LeaseLost", blob.upload_page, *page, lease=lease), 412)
        lease.renew()           # nothing has been written since: it may live again
        admin(self.server, "POST", "/lease", {"container": self.name, "blob": "d.vhd",
                                              "action": "expire"})
        blob.upload_page(*page)
        self.refused("LeaseNotPresentWithLeaseOperation", lease.renew)

    def test_break_and_states(self):
        blob = self.blob(size=MIB)
        first = blob.acquire_lease(-1)
        self.refused("LeaseAlreadyPresent", blob.acquire_lease, -1)
        blob.acquire_lease(60, lease_id=first.id)       # one's own: a new duration
        self.assertGreater(first.break_lease(30), 25)
        self.assertEqual(blob.get_blob_properties().lease.state, "breaking")
        self.refused("LeaseIsBrokenAndCannotBeRenewed", first.renew)
        self.refused("LeaseAlreadyPresent", blob.acquire_lease, -1)
        self.assertEqual(first.break_lease(0), 0)
        self.assertEqual(blob.get_blob_properties().lease.state, "broken")
        self.refused("LeaseLost", blob.upload_page, b"x" * 512, 0, 512, lease=first)
        second = blob.acquire_lease(-1)
        self.refused("LeaseIdMismatchWithLeaseOperation", first.release)
        old = second.id
        second.release()
        self.refused("LeaseNotPresentWithLeaseOperation", BlobLeaseClient(blob, old).renew)
        self.assertEqual(blob.get_blob_properties().lease.state, "available")
        for bad in (14, 61):
            self.refused("InvalidHeaderValue", blob.acquire_lease, bad)


class Copies(SdkCase):
    def test_from_snapshot(self):
        blob, data = self.blob(size=4 * MIB), os.urandom(MIB)
        blob.upload_page(data, MIB, MIB)
        snapshot = blob.create_snapshot()["snapshot"]
        copy = self.container.get_blob_client("copy.vhd")
        started = copy.start_copy_from_url(f"{blob.url}?snapshot={snapshot}")
        self.assertEqual(started["copy_status"], "pending")
        self.refused("PendingCopyOperation", copy.upload_page, b"x" * 512, 0, 512)
        self.refused("PendingCopyOperation", copy.create_snapshot)
        self.assertEqual(copy.download_blob(MIB, 4096).readall(), bytes(4096), "not there yet")
        self.assertEqual(self.ended(copy), "success")
        self.assertEqual(copy.download_blob().readall(), bytes(MIB) + data + bytes(2 * MIB))
        copy.upload_page(b"x" * 512, MIB, 512)          # the source does not notice
        frozen = self.container.get_blob_client("d.vhd", snapshot=snapshot)
        self.assertEqual(frozen.download_blob(MIB, MIB).readall(), data)
        self.refused("NoPendingCopyOperation", copy.abort_copy, started["copy_id"])

    def test_failure_and_block_blobs(self):
        source = self.container.upload_blob("text", b"text")
        copy = self.container.get_blob_client("copy")
        copy.start_copy_from_url(source.url)
        self.assertEqual(self.ended(copy), "success")
        self.assertEqual(copy.download_blob().readall(), b"text")
        admin(self.server, "POST", "/settings", {"copy_fails": True})
        blob = self.blob(size=MIB)
        blob.upload_page(b"x" * 512, 0, 512)
        copy = self.container.get_blob_client("copy.vhd")
        copy.start_copy_from_url(blob.url)
        self.assertEqual(self.ended(copy), "failed")
        self.assertIn("500", copy.get_blob_properties().copy.status_description)
        self.assertEqual(copy.download_blob(0, 512).readall(), bytes(512))

    def ended(self, blob):
        deadline = time.monotonic() + 20
        while (status := blob.get_blob_properties().copy.status) == "pending":
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        return status

    def test_abort(self):
        admin(self.server, "POST", "/settings", {"copy_pending_s": 60})
        blob = self.blob(size=MIB)
        copy = self.container.get_blob_client("copy.vhd")
        started = copy.start_copy_from_url(blob.url)
        self.refused("CopyIdMismatch", copy.abort_copy, str(uuid.uuid4()))
        copy.abort_copy(started["copy_id"])
        about = copy.get_blob_properties()
        self.assertEqual((about.copy.status, about.size), ("aborted", 0))
        with self.assertRaises(ResourceNotFoundError):
            copy.start_copy_from_url(blob.url + "-missing")


class Identity(SdkCase):
    def client(self, name, **kwargs):
        return BlobClient(self.server["endpoint"], self.name, name, retry_total=0, **kwargs)

    def soon(self, minutes=10):
        return datetime.now(timezone.utc) + timedelta(minutes=minutes)

    def test_wrong_key(self):
        blob = self.client("x", credential={"account_name": self.server["account"],
                                            "account_key": "AAAA"})
        with self.assertRaises(ClientAuthenticationError):
            blob.exists()
        self.assertGreater(admin(self.server, "GET", "/stats")["bad_signatures"], 0)

    def test_sas(self):
        account, key = self.server["account"], self.server["key"]
        blob = self.blob(size=MIB)
        blob.upload_page(b"s" * 512, 0, 512)
        snapshot = blob.create_snapshot()["snapshot"]
        reading = generate_blob_sas(account, self.name, "d.vhd", account_key=key,
                                    permission=BlobSasPermissions(read=True), expiry=self.soon())
        self.assertEqual(self.client("d.vhd", credential=reading).download_blob(0, 512).readall(),
                         b"s" * 512)
        self.refused("AuthorizationPermissionMismatch",
                     self.client("d.vhd", credential=reading).clear_page, 0, 512)
        self.refused("AuthenticationFailed",
                     self.client("other", credential=reading).get_blob_properties)
        frozen = generate_blob_sas(account, self.name, "d.vhd", snapshot=snapshot,
                                   account_key=key, permission="r", expiry=self.soon())
        client = self.client("d.vhd", snapshot=snapshot, credential=frozen)
        self.assertEqual(client.download_blob(0, 512).readall(), b"s" * 512)
        late = generate_blob_sas(account, self.name, "d.vhd", account_key=key, permission="r",
                                 expiry=self.soon(-1))
        self.refused("AuthenticationFailed",
                     self.client("d.vhd", credential=late).get_blob_properties)
        whole = generate_container_sas(account, self.name, account_key=key, expiry=self.soon(),
                                       permission=ContainerSasPermissions(read=True, write=True,
                                                                          list=True))
        self.client("d.vhd", credential=whole).clear_page(0, 512)
        everything = generate_account_sas(
            account, key, ResourceTypes(service=True, container=True, object=True),
            AccountSasPermissions(read=True, write=True, list=True, delete=True, create=True),
            self.soon())
        service = BlobServiceClient(self.server["endpoint"], credential=everything)
        self.assertEqual(len(list(service.get_container_client(self.name).list_blobs())), 1)
        self.client("d.vhd", credential=everything).upload_page(b"q" * 512, 0, 512)


class Bearer(TlsServerCase):
    """The SDK sends tokens over TLS only."""

    def test_token(self):
        url = (self.server["imds_endpoint"] + "/metadata/identity/oauth2/token"
               "?api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com%2F")
        request = urllib.request.Request(url, headers={"Metadata": "true"})
        context = ssl.create_default_context(cafile=self.cert)
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            token = json.load(answer)

        class Credential:
            def get_token(self, *_scopes, **_kwargs):
                return AccessToken(token["access_token"], int(token["expires_on"]))

        service = BlobServiceClient(self.server["endpoint"], credential=Credential(),
                                    connection_verify=self.cert, retry_total=0)
        container = service.create_container("tokens")
        blob = container.get_blob_client("d.vhd")
        blob.create_page_blob(MIB)
        blob.upload_page(b"t" * 512, 0, 512)
        self.assertEqual(blob.download_blob(0, 512).readall(), b"t" * 512)
        admin(self.server, "POST", "/tokens/expire", {})
        with self.assertRaises(ClientAuthenticationError):
            blob.upload_page(b"u" * 512, 0, 512)


if __name__ == "__main__":
    unittest.main(warnings="ignore")     # the SDK leaves sockets to the collector
