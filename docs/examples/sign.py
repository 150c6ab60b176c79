#!/usr/bin/env python3
# A signed request: CLAUDEGATE_URL, CLAUDEGATE_KEY and CLAUDEGATE_SIGNING_SECRET from the environment.
#   python3 sign.py POST /api/chat '{"message":"Hello"}'
import hashlib, hmac, os, sys, time, urllib.error, urllib.request, uuid

method, target, body = (sys.argv[1:] + [''])[:3]
body = body.encode()

now, nonce = int(time.time()), str(uuid.uuid4())
digest = hashlib.sha256(body).hexdigest()
text = '\n'.join(['v1', str(now), nonce, method, target, digest])
mac = hmac.new(os.environ['CLAUDEGATE_SIGNING_SECRET'].encode(), text.encode(), 'sha256').hexdigest()
request = urllib.request.Request(os.environ['CLAUDEGATE_URL'] + target, body or None, {
    'Authorization': 'Bearer ' + os.environ['CLAUDEGATE_KEY'],
    'Content-Type': 'application/json',
    'X-Claudegate-Signature': f't={now},n={nonce},v1={mac}'}, method=method)
try:
    print(urllib.request.urlopen(request).read().decode())
except urllib.error.HTTPError as error:
    sys.exit(error.read().decode())
