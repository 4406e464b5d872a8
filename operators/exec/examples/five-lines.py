import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if "id" in m: print(json.dumps({"reply": m["id"], "body": "hello"}), flush=True)
