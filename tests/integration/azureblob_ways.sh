# The part "ways" of azureblob.sh, which sources this: tokens, signatures, TLS, a proxy.
# Tokens go over plain HTTP only here: the server gives them and takes them on one port.

lf_step "a CA of our own and a server with its certificate"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
	-subj "/CN=landfall test CA" -addext basicConstraints=critical,CA:TRUE \
	-keyout "$lf_tmp/ca.key" -out "$lf_tmp/ca.pem" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=127.0.0.1" \
	-keyout "$lf_tmp/server.key" -out "$lf_tmp/server.csr" 2>/dev/null
printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' >"$lf_tmp/server.ext"
openssl x509 -req -in "$lf_tmp/server.csr" -CA "$lf_tmp/ca.pem" -CAkey "$lf_tmp/ca.key" \
	-CAcreateserial -days 2 -extfile "$lf_tmp/server.ext" -out "$lf_tmp/server.pem" 2>/dev/null
pageblob_start --tls "$lf_tmp/server.pem" "$lf_tmp/server.key"
export TEST_TLS_CONNECTION=$AZURE_STORAGE_CONNECTION_STRING TEST_CA=$lf_tmp/ca.pem

lf_step "a server without TLS, that gives tokens"
pageblob_start
export PAGEBLOB_ADMIN=$pageblob_admin_url
TEST_LOGIN=$(pageblob_field login_endpoint)
TEST_TENANT=$(pageblob_field tenant)
TEST_CLIENT_ID=$(pageblob_field client_id)
export TEST_LOGIN TEST_TENANT TEST_CLIENT_ID
pageblob_field client_secret >"$lf_tmp/secret"
echo head.body.signature >"$lf_tmp/assertion"
export TEST_SECRET_FILE=$lf_tmp/secret TEST_ASSERTION_FILE=$lf_tmp/assertion
# An account signature as "Create an account SAS" of the service's reference rules it.
TEST_SAS=$(python3 - "$(pageblob_field account)" "$(pageblob_field key)" <<'EOF'
import base64
import datetime
import hashlib
import hmac
import sys
import urllib.parse

account, key = sys.argv[1:3]
end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
sas = {"sp": "rwdlacupx", "ss": "b", "srt": "sco", "st": "",
       "se": end.strftime("%Y-%m-%dT%H:%M:%SZ"), "sip": "", "spr": "https,http",
       "sv": "2021-12-02", "ses": ""}
text = account + "\n" + "".join(value + "\n" for value in sas.values())
sas["sig"] = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(),
                                       hashlib.sha256).digest()).decode()
print("?" + urllib.parse.urlencode({name: value for name, value in sas.items() if value}))
EOF
)
export TEST_SAS

echo "web:se:cret" >"$lf_tmp/proxy-credentials"
echo "web:secret" >"$lf_tmp/proxy-credentials-wrong"
export TEST_PROXY TEST_PROXY_CREDENTIALS=$lf_tmp/proxy-credentials
export TEST_PROXY_CREDENTIALS_WRONG=$lf_tmp/proxy-credentials-wrong

# proxy SCHEME: starts one that wants credentials so
proxy() {
	lf_step "a proxy that wants credentials: $1"
	lf_spawn "$lf_tmp/proxy-$1.out" python3 "$lf_tests/integration/auth_proxy.py" \
		"$lf_tmp/proxy-$1.port" "$(cat "$lf_tmp/proxy-credentials")" "$lf_tmp/proxy-$1.log" "$1"
	lf_wait_for 20 "the proxy" test -s "$lf_tmp/proxy-$1.port"
	TEST_PROXY=http://127.0.0.1:$(cat "$lf_tmp/proxy-$1.port")
}

# went_through SCHEME: both ways, and not without credentials
went_through() {
	grep -q '^CONNECT .* 200$' "$lf_tmp/proxy-$1.log" || lf_fail "nothing went through $1 by TLS"
	grep -q '^PUT http:.* sent$' "$lf_tmp/proxy-$1.log" || lf_fail "nothing went through $1"
	grep -q ' 407$' "$lf_tmp/proxy-$1.log" || lf_fail "the proxy let everyone through: $1"
}

proxy basic
run azureblob_ways_test
went_through basic
for scheme in digest-md5 digest-sha256 ntlm; do
	proxy "$scheme"
	run azureblob_ways_test past_a_proxy
	went_through "$scheme"
done
