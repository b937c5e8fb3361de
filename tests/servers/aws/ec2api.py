"""EC2's Query API, version 2016-11-15: the actions that a replication needs."""
import base64
import hashlib
import hmac
import os
import re
import secrets
import time
from xml.sax.saxutils import escape

from .errors import Refusal

VERSION = "2016-11-15"
NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
_NUMBERED = re.compile(r"\.\d+(?=\.|$)")

# What an action takes; .N stands for a number.
_COMMON = {"Action", "Version"}
_LISTS = {"MaxResults", "NextToken", "Filter.N.Name", "Filter.N.Value.N"}
PARAMETERS = {
    "DescribeInstances": _LISTS | {"InstanceId.N"},
    "DescribeVolumes": _LISTS | {"VolumeId.N"},
    "DescribeSnapshots": _LISTS | {"SnapshotId.N", "Owner.N"},
    "DescribeInstanceAttribute": {"InstanceId", "Attribute"},
    "CreateSnapshots": {"InstanceSpecification.InstanceId", "Description",
                        "InstanceSpecification.ExcludeBootVolume",
                        "InstanceSpecification.ExcludeDataVolumeId.N",
                        "TagSpecification.N.ResourceType", "TagSpecification.N.Tag.N.Key",
                        "TagSpecification.N.Tag.N.Value"},
    "DeleteSnapshot": {"SnapshotId"},
    "StopInstances": {"InstanceId.N", "Force"},
    "StartInstances": {"InstanceId.N"},
}


def element(name, value):
    """XML of a value: a dict is elements, a list is items, None is nothing."""
    if value is None:
        return ""
    if isinstance(value, dict):
        inner = "".join(element(k, v) for k, v in value.items())
    elif isinstance(value, (list, tuple)):
        inner = "".join(element("item", v) for v in value)
    elif isinstance(value, bool):
        inner = "true" if value else "false"
    else:
        inner = escape(str(value))
    return f"<{name}>{inner}</{name}>"


def iso_ms(when):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when)) + f".{int(when % 1 * 1000):03}Z"


def tag_set(tags):
    return [{"key": key, "value": value} for key, value in sorted(tags.items())] or None


def numbered(form, prefix):
    """The values of prefix.1, prefix.2, …"""
    out = []
    while f"{prefix}.{len(out) + 1}" in form:
        out.append(form[f"{prefix}.{len(out) + 1}"])
    return out


def filters_of(form):
    out, number = {}, 1
    while f"Filter.{number}.Name" in form:
        out[form[f"Filter.{number}.Name"]] = numbered(form, f"Filter.{number}.Value")
        number += 1
    return out


class Ec2:
    def __init__(self, store, settings, faults, witness):
        self.store, self.settings = store, settings
        self.faults, self.witness = faults, witness
        self.secret = os.urandom(16)

    def serve(self, form, fault):
        action = form.get("Action", "")
        if form.get("Version") != VERSION:
            raise Refusal(400, "NoSuchVersion")
        if action not in PARAMETERS:
            raise Refusal(400, "InvalidAction", f"The action {action} is not valid")
        for name in form:
            if _NUMBERED.sub(".N", name) not in PARAMETERS[action] | _COMMON:
                raise Refusal(400, "UnknownParameter", f"The parameter {name} is not recognized")
        if not self.faults.admit("calls_per_s", self.settings["calls_per_s"]):
            self.witness.count("throttled")
            raise Refusal(503, "RequestLimitExceeded", "Request limit exceeded.")
        with self.store.lock:
            body = getattr(self, "_" + re.sub(r"(?<!^)(?=[A-Z])", "_", action).lower())(
                form, fault)
        request_id = secrets.token_hex(8)
        inner = "".join(element(k, v) for k, v in body.items())
        return (f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{NAMESPACE}">'
                f"<requestId>{request_id}</requestId>{inner}</{action}Response>").encode()

    # Lists

    def _page(self, form, items, fault, id_prefix, name):
        """The page of `items` that was asked for, and the token of the next."""
        start = 0
        if "MaxResults" in form:
            if numbered(form, id_prefix):
                raise Refusal(400, "InvalidParameterCombination",
                              f"The parameter {id_prefix} cannot be used with maxResults")
            if not form["MaxResults"].isdigit() or not 5 <= int(form["MaxResults"]) <= 1000:
                raise Refusal(400, "InvalidMaxResults")
        size = int(form.get("MaxResults", 1000))
        if "NextToken" in form:
            text, _, mac = form["NextToken"].rpartition("|")
            if not hmac.compare_digest(mac, self._mac(name + text)):
                raise Refusal(400, "InvalidNextToken")
            start = int(text.partition("|")[0])
        if self.settings["page_items"] and "MaxResults" in form:
            size = min(size, self.settings["page_items"])
        if fault.get("kind") == "empty_page":
            size = 0
        elif fault.get("kind") == "short_page":
            size = min(size, fault.get("items", 1))
        end = start + size
        if end >= len(items):
            return items[start:end], None
        text = f"{end}|{secrets.token_hex(4)}"          # never the same twice
        return items[start:end], f"{text}|{self._mac(name + text)}"

    def _mac(self, text):
        return base64.b64encode(
            hmac.new(self.secret, text.encode(), hashlib.sha256).digest()).decode()

    @staticmethod
    def _passes(filters, facts, tags):
        for name, values in filters.items():
            if name.startswith("tag:"):
                found = tags.get(name[4:]) in values
            elif name == "tag-key":
                found = bool(set(values) & set(tags))
            elif name in facts:
                found = facts[name] in values
            else:
                raise Refusal(400, "InvalidParameterValue", f"The filter '{name}' is invalid")
            if not found:
                return False
        return True

    def _select(self, form, prefix, have, missing):
        wanted = numbered(form, prefix)
        for one in wanted:
            if one not in have:
                raise Refusal(400, missing, f"'{one}' does not exist")
        return [have[one] for one in wanted] if wanted else list(have.values())

    def _describe_instances(self, form, fault):
        filters = filters_of(form)
        found = [i for i in self._select(form, "InstanceId", self.store.instances,
                                         "InvalidInstanceID.NotFound")
                 if self._passes(filters, {"private-ip-address": i["private_ip"],
                                           "instance-id": i["id"],
                                           "instance-state-name": self.store.state_of(i)},
                                 i["tags"])]
        page, more = self._page(form, found, fault, "InstanceId", "i")
        return {"reservationSet": [{"reservationId": "r-" + i["id"][2:], "ownerId": "1234",
                                    "instancesSet": [self._instance(i)]} for i in page],
                "nextToken": more}

    def _instance(self, i):
        windows = i["platform"] == "windows"
        return {"instanceId": i["id"], "instanceState": {"code": 16,
                                                         "name": self.store.state_of(i)},
                "instanceType": "m5.large", "privateIpAddress": i["private_ip"],
                "architecture": "x86_64", "placement": {"availabilityZone": "eu-test-1a"},
                "vpcId": "vpc-1", "subnetId": "subnet-1", "platform": i["platform"] or None,
                "platformDetails": "Windows" if windows else "Linux/UNIX",
                "bootMode": i["boot_mode"], "currentInstanceBootMode": i["boot_mode"],
                "rootDeviceName": i["root_device"],
                "blockDeviceMapping": [
                    {"deviceName": self.store.volumes[v]["device"],
                     "ebs": {"volumeId": v, "status": "attached"}} for v in i["volumes"]],
                "tagSet": tag_set(i["tags"])}

    def _describe_volumes(self, form, fault):
        filters = filters_of(form)
        found = [v for v in self._select(form, "VolumeId", self.store.volumes,
                                         "InvalidVolume.NotFound")
                 if self._passes(filters, {"attachment.instance-id": v["instance"],
                                           "volume-id": v["id"]}, v["tags"])]
        page, more = self._page(form, found, fault, "VolumeId", "v")
        return {"volumeSet": [{
            "volumeId": v["id"], "size": v["size_gib"], "volumeType": v["type"],
            "status": "in-use" if v["instance"] else "available", "encrypted": False,
            "availabilityZone": "eu-test-1a", "attachmentSet": [
                {"volumeId": v["id"], "instanceId": v["instance"], "device": v["device"]}]
            if v["instance"] else None, "tagSet": tag_set(v["tags"])} for v in page],
            "nextToken": more}

    def _snapshot(self, s, state_name):
        state = s.state
        return {"snapshotId": s.id, "volumeId": s.volume_id, state_name: state,
                "startTime": iso_ms(s.started + self.settings["clock_skew_s"]), "volumeSize": s.size_gib, "ownerId": "1234",
                "progress": "" if state == "pending" else "100%", "encrypted": False,
                "description": s.description, "tagSet": tag_set(s.tags)}

    def _describe_snapshots(self, form, fault):
        filters = filters_of(form)
        if numbered(form, "Owner") not in ([], ["self"]):
            raise Refusal(400, "InvalidParameterValue", "only self")
        alive = {s.id: s for s in self.store.alive()
                 if time.time() - s.made >= self.settings["visible_s"]}
        found = [s for s in self._select(form, "SnapshotId", alive, "InvalidSnapshot.NotFound")
                 if self._passes(filters, {"volume-id": s.volume_id, "status": s.state},
                                 s.tags)]
        page, more = self._page(form, found, fault, "SnapshotId", "s")
        return {"snapshotSet": [self._snapshot(s, "status") for s in page], "nextToken": more}

    # Changes

    def _find_instance(self, instance_id):
        if instance_id not in self.store.instances:
            raise Refusal(400, "InvalidInstanceID.NotFound",
                          f"The instance ID '{instance_id}' does not exist")
        return self.store.instances[instance_id]

    def _create_snapshots(self, form, fault):
        instance = self._find_instance(form.get("InstanceSpecification.InstanceId"))
        if form.get("TagSpecification.1.ResourceType", "snapshot") != "snapshot":
            raise Refusal(400, "InvalidParameterValue")
        tags, number = {}, 1
        while f"TagSpecification.1.Tag.{number}.Key" in form:
            tags[form[f"TagSpecification.1.Tag.{number}.Key"]] = \
                form.get(f"TagSpecification.1.Tag.{number}.Value", "")
            number += 1
        without = set(numbered(form, "InstanceSpecification.ExcludeDataVolumeId"))
        volumes = []
        for volume_id in instance["volumes"]:
            volume = self.store.volumes[volume_id]
            root = volume["device"] == instance["root_device"]
            if root and volume_id in without:
                raise Refusal(400, "InvalidParameterValue", "that is the root volume")
            if volume_id in without or (root and form.get(
                    "InstanceSpecification.ExcludeBootVolume") == "true"):
                continue
            volumes.append(volume)
        if without - set(instance["volumes"]):
            raise Refusal(400, "InvalidVolume.NotFound")
        if not volumes:
            raise Refusal(400, "InvalidParameterValue", "nothing is left to be snapshotted")
        made = self.store.create_set(volumes, tags, form.get("Description", ""),
                                     fault.get("kind") == "end_in_error")
        return {"snapshotSet": [self._snapshot(s, "state") for s in made]}

    def _delete_snapshot(self, form, _fault):
        snapshot = self.store.snapshot(form.get("SnapshotId"))
        if snapshot is None:
            raise Refusal(400, "InvalidSnapshot.NotFound",
                          f"The snapshot '{form.get('SnapshotId')}' does not exist.")
        snapshot.deleted = True
        return {"return": True}

    def _describe_instance_attribute(self, form, _fault):
        instance = self._find_instance(form.get("InstanceId"))
        if form.get("Attribute") != "disableApiStop":
            raise Refusal(400, "InvalidParameterValue")
        return {"instanceId": instance["id"],
                "disableApiStop": {"value": instance["stop_protected"]}}

    def _change(self, form, by_way_of, to, protected):
        out = []
        for instance_id in numbered(form, "InstanceId"):
            instance = self._find_instance(instance_id)
            if protected and instance["stop_protected"]:
                raise Refusal(400, "OperationNotPermitted",
                              f"The instance '{instance_id}' may not be stopped. Modify its "
                              "'disableApiStop' instance attribute and try again.")
            before = self.store.state_of(instance)
            if before == "terminated":
                raise Refusal(400, "IncorrectInstanceState")
            if before != to:
                instance["state"] = by_way_of
                instance["until"] = (time.time() + self.settings["stop_s"], to)
            out.append({"instanceId": instance_id, "currentState": {"name": instance["state"]},
                        "previousState": {"name": before}})
        return {"instancesSet": out}

    def _stop_instances(self, form, _fault):
        return self._change(form, "stopping", "stopped", True)

    def _start_instances(self, form, _fault):
        return self._change(form, "pending", "running", False)


def refuse(refusal):
    """A refusal as EC2 words it."""
    body = (f'<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
            f"<Code>{escape(refusal.code)}</Code><Message>{escape(refusal.message)}</Message>"
            f"</Error></Errors><RequestID>{secrets.token_hex(8)}</RequestID></Response>")
    return refusal.status, {"Content-Type": "text/xml;charset=UTF-8", **refusal.headers}, \
        body.encode()
