#!/usr/bin/env python3
"""The tests' own AWS is honest: AWS's own command line works against it, and what is wrong is
refused."""
import base64
import hashlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

BLOCK = 524288
SERVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "aws", "server.py")


class AwsCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory(prefix="landfall-test-")
        cls.process = subprocess.Popen(
            [sys.executable, SERVER, "--data", cls.scratch.name, "--die-with-parent"],
            stdout=subprocess.PIPE, text=True)
        cls.server = json.loads(cls.process.stdout.readline())
        cls.defaults = cls.admin("GET", "/settings")

    @classmethod
    def tearDownClass(cls):
        cls.process.terminate()
        cls.process.wait(20)
        cls.process.stdout.close()
        cls.scratch.cleanup()

    @classmethod
    def admin(cls, method, path, value=None):
        connection = http.client.HTTPConnection("127.0.0.1", cls.server["admin_port"])
        connection.request(method, path, json.dumps(value) if value is not None else None)
        answer = connection.getresponse()
        data = json.loads(answer.read())
        connection.close()
        assert answer.status == 200, data
        return data

    def setUp(self):
        self.admin("POST", "/settings", self.defaults)
        self.admin("POST", "/rules/clear", {"seed": 1})
        self.admin("POST", "/reset")
        name = self.id().rsplit(".", 1)[1]
        self.disk = os.path.join(self.scratch.name, name)
        self.instance = self.admin("POST", "/instance", {
            "private_ip": "10.1.2.3", "tags": {"Name": "web ü&<1>"},
            "volumes": [{"path": self.disk, "size_gib": 1},
                        {"path": self.disk + "-b", "size_gib": 2}]})

    def tearDown(self):
        for snapshot in self.admin("GET", "/snapshots"):
            self.admin("POST", "/snapshot/delete", {"id": snapshot["id"]})
        self.assertEqual(self.admin("GET", "/stats")["crashes"], 0)

    def write(self, path, index, data):
        with open(path, "r+b") as out:
            out.seek(index * BLOCK)
            out.write(data)


@unittest.skipUnless(shutil.which("aws"), "aws is not installed")
class Stock(AwsCase):
    """AWS's own command line."""

    def aws(self, *words, fails=None, keys=None, region=None):
        env = {"PATH": os.environ["PATH"], "HOME": self.scratch.name, "AWS_PAGER": "",
               "AWS_ACCESS_KEY_ID": self.server["access_key_id"],
               "AWS_SECRET_ACCESS_KEY": self.server["secret_access_key"],
               "AWS_DEFAULT_REGION": region or self.server["region"], "AWS_MAX_ATTEMPTS": "4",
               "AWS_EC2_METADATA_DISABLED": "true", **(keys or {})}
        done = subprocess.run(["aws", "--endpoint-url", self.server["endpoint"], "--output",
                               "json", *words], env=env, capture_output=True, text=True,
                              timeout=120)
        if fails:
            self.assertNotEqual(done.returncode, 0, done.stdout)
            self.assertIn(fails, done.stderr)
            return None
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def test_discovery(self):
        found = self.aws("ec2", "describe-instances", "--filters",
                         "Name=private-ip-address,Values=10.1.2.3",
                         "Name=instance-id,Values=" + self.instance["id"])
        instance = found["Reservations"][0]["Instances"][0]
        self.assertEqual(instance["Tags"], [{"Key": "Name", "Value": "web ü&<1>"}])
        self.assertEqual(len(instance["BlockDeviceMappings"]), 2)
        volumes = self.aws("ec2", "describe-volumes", "--filters",
                           "Name=attachment.instance-id,Values=" + self.instance["id"])
        self.assertEqual([v["Size"] for v in volumes["Volumes"]], [1, 2])
        self.aws("ec2", "describe-instances", "--instance-ids", "i-0123456789abcdef0",
                 fails="InvalidInstanceID.NotFound")

    def test_cycle(self):
        one, two = os.urandom(BLOCK), os.urandom(4096)
        self.write(self.disk, 3, one)
        self.write(self.disk, 700, two)
        made = self.snapshots()
        listed = self.aws("ebs", "list-snapshot-blocks", "--snapshot-id", made[0])
        self.assertEqual([b["BlockIndex"] for b in listed["Blocks"]], [3, 700])
        got = os.path.join(self.scratch.name, "block")
        for block, data in zip(listed["Blocks"], (one, two.ljust(BLOCK, b"\0"))):
            head = self.aws("ebs", "get-snapshot-block", "--snapshot-id", made[0],
                            "--block-index", str(block["BlockIndex"]), "--block-token",
                            block["BlockToken"], got)
            with open(got, "rb") as back:
                self.assertEqual(back.read(), data)
            self.assertEqual(head["Checksum"],
                             base64.b64encode(hashlib.sha256(data).digest()).decode())
        self.write(self.disk, 9, b"new")
        os.truncate(self.disk, 600 * BLOCK)          # block 700 is a hole now
        os.truncate(self.disk, 1 << 30)
        after = self.snapshots()
        changed = self.aws("ebs", "list-changed-blocks", "--first-snapshot-id", made[0],
                           "--second-snapshot-id", after[0])
        self.assertEqual([(b["BlockIndex"], "FirstBlockToken" in b, "SecondBlockToken" in b)
                          for b in changed["ChangedBlocks"]],
                         [(9, False, True), (700, True, False)])
        self.aws("ebs", "list-changed-blocks", "--first-snapshot-id", made[1],
                 "--second-snapshot-id", after[0], fails="unrelated")
        self.aws("ec2", "delete-snapshot", "--snapshot-id", made[0])
        self.aws("ebs", "list-snapshot-blocks", "--snapshot-id", made[0],
                 fails="ResourceNotFoundException")
        self.assertEqual(self.admin("GET", "/stats")["bad_signatures"], 0)

    def snapshots(self):
        made = self.aws("ec2", "create-snapshots", "--instance-specification",
                        "InstanceId=" + self.instance["id"], "--tag-specifications",
                        "ResourceType=snapshot,Tags=[{Key=a b,Value=ü+/=}]")["Snapshots"]
        ids = [s["SnapshotId"] for s in made]
        self.assertEqual({s["State"] for s in made}, {"pending"})
        self.aws("ec2", "wait", "snapshot-completed", "--snapshot-ids", *ids)
        return ids

    def test_stopping(self):
        self.admin("POST", "/instance/set", {"id": self.instance["id"], "stop_protected": True})
        said = self.aws("ec2", "describe-instance-attribute", "--instance-id",
                        self.instance["id"], "--attribute", "disableApiStop")
        self.assertEqual(said["DisableApiStop"], {"Value": True})
        self.aws("ec2", "stop-instances", "--instance-ids", self.instance["id"],
                 fails="OperationNotPermitted")
        self.admin("POST", "/instance/set", {"id": self.instance["id"], "stop_protected": False})
        self.aws("ec2", "stop-instances", "--instance-ids", self.instance["id"])

    def test_roles(self):
        arn = "arn:aws:iam::123456789012:role/replicate"
        self.admin("POST", "/settings", {"roles": {arn: {"external_id": "e x=1"}}})
        given = self.aws("sts", "assume-role", "--role-arn", arn, "--role-session-name", "session",
                         "--external-id", "e x=1")["Credentials"]
        keys = {"AWS_ACCESS_KEY_ID": given["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
                "AWS_SESSION_TOKEN": given["SessionToken"]}
        self.aws("ec2", "describe-volumes", keys=keys)
        self.admin("POST", "/credentials/expire")
        self.aws("ec2", "describe-volumes", keys=keys, fails="RequestExpired")
        self.aws("sts", "assume-role", "--role-arn", arn, "--role-session-name", "session",
                 fails="AccessDenied")

    def test_wrong_keys_and_regions(self):
        self.aws("ec2", "describe-volumes", keys={"AWS_SECRET_ACCESS_KEY": "wrong"},
                 fails="AuthFailure")
        self.aws("ec2", "describe-volumes", region="us-east-1", fails="AuthFailure")
        self.assertEqual(self.admin("GET", "/stats")["bad_signatures"], 2)


@unittest.skipUnless(shutil.which("curl"), "curl is not installed")
class Curl(AwsCase):
    """curl signs by itself, and everything curl does not say is refused."""

    def curl(self, path, *words, service="ebs"):
        done = subprocess.run(
            ["curl", "-sS", "-w", "\n%{http_code}", "--aws-sigv4",
             f"aws:amz:{self.server['region']}:{service}", "--user",
             self.server["access_key_id"] + ":" + self.server["secret_access_key"], *words,
             self.server["endpoint"] + path], capture_output=True, timeout=60, check=True)
        body, _, status = done.stdout.rpartition(b"\n")
        return int(status), body

    def test_calls(self):
        status, body = self.curl("/", "-d", "Action=DescribeVolumes&Version=2016-11-15",
                                 service="ec2")
        self.assertEqual(status, 200, body)
        status, body = self.curl("/", "-d", "Action=DescribeVolumes&Version=2016-11-15&Colour=1",
                                 service="ec2")
        self.assertEqual(status, 400)
        self.assertIn(b"UnknownParameter", body)
        status, body = self.curl("/", "-d", "Action=DescribeVolumes&Version=2016-11-15",
                                 service="ebs")
        self.assertEqual(status, 401)
        status, _ = self.curl("/snapshots/snap-1/blocks")
        self.assertEqual(status, 404)

    def test_a_block_needs_its_own_token(self):
        self.write(self.disk, 0, b"a")
        self.write(self.disk, 1, b"b")
        self.admin("POST", "/settings", {"complete_s": 0.5})
        _, body = self.curl("/", "-d", "Action=CreateSnapshots&Version=2016-11-15&"
                            "InstanceSpecification.InstanceId=" + self.instance["id"],
                            service="ec2")
        snapshot = body.decode().split("<snapshotId>")[1].split("<")[0]
        status, body = self.curl(f"/snapshots/{snapshot}/blocks")
        self.assertEqual((status, json.loads(body)["Reason"]), (400, "INVALID_SNAPSHOT_ID"))
        while self.admin("GET", "/snapshots")[0]["state"] == "pending":
            pass
        status, body = self.curl(f"/snapshots/{snapshot}/blocks")
        tokens = [b["BlockToken"] for b in json.loads(body)["Blocks"]]
        self.assertTrue(all(set("+/=") & set(token) for token in tokens))

        def get(index, token):
            from urllib.parse import quote
            return self.curl(f"/snapshots/{snapshot}/blocks/{index}?blockToken="
                             + quote(token, safe=""))
        self.assertEqual(get(0, tokens[0])[1][:1], b"a")
        self.assertEqual(get(1, tokens[1])[1][:1], b"b")
        self.assertEqual(get(0, tokens[1])[0], 400)
        self.admin("POST", "/tokens/expire", {"kind": "block"})
        self.assertEqual(json.loads(get(0, tokens[0])[1])["Reason"], "INVALID_BLOCK_TOKEN")

    def test_throttles_are_of_token_buckets(self):
        self.admin("POST", "/settings", {"lists_per_s": 1})
        answers = [self.curl("/snapshots/snap-1/blocks")[0] for _ in range(3)]
        self.assertIn(400, answers[1:])


if __name__ == "__main__":
    unittest.main()
