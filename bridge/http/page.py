"""The page at `/`: where things are. Nothing is loaded from elsewhere, so it works on a closed site."""

INDEX = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>IoT edge bridge</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem;color:#1c2733}
code{background:#eef2f5;padding:.1rem .3rem;border-radius:3px}td{padding:.2rem 1rem .2rem 0}
#state{font-weight:600}
</style>
<h1>IoT edge bridge</h1>
<p>State: <span id="state">…</span></p>
<table>
<tr><td><code>POST /devices/{device_uuid}/readings</code><td>a packet of a device (X-Device-Key)
<tr><td><code>POST /ingest/packets</code><td>the same, device_uuid in the body
<tr><td><code>POST /ingest/readings</code><td>one reading (X-API-Key)
<tr><td><code>POST /ingest/readings/bulk</code><td>many readings (X-API-Key)
<tr><td><code>GET /sensors/{sensor_id}/status</code><td>alerts, warnings, predictions (X-API-Key)
<tr><td><a href="/health">/health</a>, <a href="/health/ready">/health/ready</a><td>is it alive, can it store
<tr><td><a href="/metrics">/metrics</a><td>for Prometheus
<tr><td><a href="/openapi.json">/openapi.json</a><td>the contract
</table>
<script>
fetch("/health/ready").then(r=>r.json()).then(b=>{
document.getElementById("state").textContent=[b.status,...b.problems].join(": ")})
</script>
</html>
"""
