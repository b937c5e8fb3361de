"""Containers: create, delete, properties, metadata, lease, and the listing of blobs."""
import base64

from . import xmlbody
from .errors import BlobError, bad_query
from .lease import run_action
from .model import Container
from .request import Response

XML = {"Content-Type": "application/xml"}


def account_info(service, _req):
    premium = service.account.settings.premium
    return Response(200, {"x-ms-sku-name": "Premium_LRS" if premium else "Standard_LRS",
                          "x-ms-account-kind": "StorageV2",
                          "x-ms-is-hns-enabled": "false"})


def list_containers(service, req):
    account, prefix = service.account, req.query.get("prefix", "")
    with account.lock:
        rows = [f"<Container>{xmlbody.tag('Name', name)}<Properties>"
                f"{xmlbody.tag('Last-Modified', account.http_date(c.modified))}"
                f"{xmlbody.tag('Etag', c.etag)}</Properties></Container>"
                for name, c in sorted(account.containers.items()) if name.startswith(prefix)]
    body = xmlbody.enumeration({"ServiceEndpoint": _endpoint(service, req)},
                               [("Prefix", prefix)], rows, "", "Containers")
    return Response(200, XML, body)


def create(service, req):
    account = service.account
    account.check_container_name(req.container)
    metadata = req.metadata()
    with account.lock:
        if req.container in account.containers:
            raise BlobError("ContainerAlreadyExists")
        container = Container(account.new_lease())
        container.metadata = metadata
        account.touch(container)
        account.containers[req.container] = container
        return Response(201, service.stamp(container))


def get(service, req):
    with service.account.lock:
        container = service.account.container(req.container)
        service.check_lease(req, container, write=False)
        headers = service.stamp(container)
        headers.update(container.lease.headers())
        headers.update({f"x-ms-meta-{k}": v for k, v in container.metadata.items()})
        headers["x-ms-has-immutability-policy"] = headers["x-ms-has-legal-hold"] = "false"
        return Response(200, headers)


def set_metadata(service, req):
    metadata = req.metadata()
    with service.account.lock:
        container = service.account.container(req.container)
        req.check_conditions(container)
        service.check_lease(req, container, write=False)
        container.metadata = metadata
        service.account.touch(container)
        return Response(200, service.stamp(container))


def lease(service, req):
    with service.account.lock:
        container = service.account.container(req.container)
        status, headers = run_action(container.lease, req.headers)
        return Response(status, {**headers, **service.stamp(container)})


def delete(service, req):
    account = service.account
    with account.lock:
        container = account.container(req.container)
        req.check_conditions(container)
        service.check_lease(req, container)
        for entry in container.entries.values():
            for version in entry.snapshots + ([entry.base] if entry.base else []):
                account.drop_version(version)
        del account.containers[req.container]
    return Response(202)


def list_blobs(service, req):
    """List Blobs: names in order, for each its snapshots oldest first, then its base."""
    account, query = service.account, req.query
    include = set(filter(None, query.get("include", "").split(",")))
    known = {"snapshots", "metadata", "uncommittedblobs", "copy", "deleted", "tags", "versions",
             "deletedwithversions", "immutabilitypolicy", "legalhold", "permissions"}
    if not include <= known:
        raise bad_query("include", query["include"])
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    limit = req.query_number("maxresults", 1, 5000) or 5000
    after = _unmark(query.get("marker"))
    rows, next_marker, seen_prefix, last = [], "", None, after
    with account.lock:
        container = account.container(req.container)
        for name in sorted(container.entries, key=lambda n: n.encode()):
            if not name.startswith(prefix):
                continue
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                folder = name[:cut + len(delimiter)]
                if folder == seen_prefix or not _shows(container.entries[name], include):
                    continue
                if (folder, "") <= after:
                    continue
                seen_prefix = folder
                items = [(folder, "", f"<BlobPrefix>{xmlbody.tag('Name', folder)}</BlobPrefix>")]
            else:
                items = [(name, version.snapshot or "~",
                          _row(service, name, container.entries[name], version, include))
                         for version in _versions(container.entries[name], include)
                         if (name, version.snapshot or "~") > after]
            room = limit - len(rows)
            rows += [row for _, _, row in items[:room]]
            last = items[:room][-1][:2] if items[:room] else last
            if len(items) > room:
                next_marker = _mark(*last)
                break
    body = xmlbody.enumeration(
        {"ServiceEndpoint": _endpoint(service, req), "ContainerName": req.container},
        [("Prefix", prefix), ("Marker", query.get("marker")),
         ("MaxResults", query.get("maxresults")), ("Delimiter", delimiter)],
        rows, next_marker, "Blobs")
    return Response(200, XML, body)


def _versions(entry, include):
    found = list(entry.snapshots) if "snapshots" in include else []
    if entry.base:
        found.append(entry.base)
    return found


def _shows(entry, include):
    return bool(_versions(entry, include))


def _row(service, name, entry, version, include):
    account, tag = service.account, xmlbody.tag
    props = [tag("Creation-Time", account.http_date(version.created)),
             tag("Last-Modified", account.http_date(version.modified)),
             tag("Etag", version.etag.strip('"')), tag("Content-Length", str(version.size))]
    for header, label in (("content-type", "Content-Type"),
                          ("content-encoding", "Content-Encoding"),
                          ("content-language", "Content-Language"),
                          ("content-md5", "Content-MD5"), ("cache-control", "Cache-Control"),
                          ("content-disposition", "Content-Disposition")):
        props.append(tag(label, version.headers.get(header)))
    if version.kind == "PageBlob":
        props.append(tag("x-ms-blob-sequence-number", str(version.sequence)))
    props.append(tag("BlobType", version.kind))
    if version.snapshot is None:
        state = entry.lease.headers()
        props += [tag("LeaseStatus", state["x-ms-lease-status"]),
                  tag("LeaseState", state["x-ms-lease-state"])]
        if "x-ms-lease-duration" in state:
            props.append(tag("LeaseDuration", state["x-ms-lease-duration"]))
    if "copy" in include and version.copy:
        props += [tag("CopyId", version.copy["id"]), tag("CopySource", version.copy["source"]),
                  tag("CopyStatus", version.copy["status"]),
                  tag("CopyProgress", version.copy["progress"])]
    props.append(tag("ServerEncrypted", "true"))
    meta = ""
    if "metadata" in include:
        meta = f"<Metadata>{''.join(tag(k, v) for k, v in version.metadata.items())}</Metadata>"
    snapshot = tag("Snapshot", version.snapshot) if version.snapshot else ""
    return (f"<Blob>{tag('Name', name)}{snapshot}<Properties>{''.join(props)}</Properties>"
            f"{meta}<OrMetadata/></Blob>")


def _mark(name, snapshot):
    return base64.urlsafe_b64encode(f"{name}\0{snapshot}".encode()).decode()


def _unmark(marker):
    """(name, snapshot) after which a listing goes on; snapshot '~' stands for the base."""
    if not marker:
        return ("", "")
    try:
        name, _, snapshot = base64.urlsafe_b64decode(marker.encode()).decode().partition("\0")
    except ValueError:
        raise bad_query("marker", marker) from None
    return name, snapshot


def _endpoint(service, req):
    host = req.header("host") or "localhost"
    scheme = "https" if service.secure else "http"
    styled = host.split(":")[0].split(".")[0] == service.account.name
    return f"{scheme}://{host}/" + ("" if styled else service.account.name)
