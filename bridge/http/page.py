"""The page at `/`: where things are. Nothing is loaded from elsewhere, so it works on a closed site."""

INDEX = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>IoT edge bridge</title>
<style>
:root{--ink:#1c2733;--paper:#fff;--line:#dde3e9;--code:#eef2f5;--link:#0b62a8;--good:#18794e;--bad:#b42318;--dull:#64717f}
@media (prefers-color-scheme:dark){
:root{--ink:#e3e8ed;--paper:#14191f;--line:#2c353f;--code:#222b34;--link:#7cbcf0;--good:#5bd19a;--bad:#ff8f82;--dull:#93a0ad}}
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:3rem auto;padding:0 1rem}
body{color:var(--ink);background:var(--paper)}
h1{font-size:1.6rem;margin:0}p{margin:.3rem 0 1.5rem;color:var(--dull)}
a{color:var(--link)}code{background:var(--code);padding:.1rem .35rem;border-radius:3px;white-space:nowrap}
table{border-collapse:collapse;width:100%}
td{padding:.5rem 1rem .5rem 0;border-top:1px solid var(--line);vertical-align:top}
td:last-child{color:var(--dull)}
#state{font-weight:600}#state.ready{color:var(--good)}#state.not{color:var(--bad)}
@media (max-width:40rem){td{display:block;padding:.5rem 0}td:last-child{border:0;padding-top:0}}
</style>
<h1>IoT edge bridge</h1>
<p><span id="state">…</span> <span id="more"></span></p>
<table>
<tr><td><code>POST /devices/{device_uuid}/readings</code><td>a packet of a device (<code>X-Device-Key</code>)
<tr><td><code>POST /ingest/packets</code><td>the same, <code>device_uuid</code> in the body
<tr><td><code>POST /ingest/readings</code><td>one reading (<code>X-API-Key</code>)
<tr><td><code>POST /ingest/readings/bulk</code><td>many readings (<code>X-API-Key</code>)
<tr><td><code>GET /sensors/{sensor_id}/status</code><td>alerts, warnings, predictions (<code>X-API-Key</code>)
<tr><td><a href="/health">/health</a>, <a href="/health/ready">/health/ready</a><td>is it alive, can it store
<tr><td><a href="/metrics">/metrics</a><td>for Prometheus
<tr><td><a href="/openapi.json">/openapi.json</a><td>the contract of all this, as OpenAPI
</table>
<script>
const none={status:"not answering",problems:[],degraded:[]}
function look(){fetch("/health/ready").then(r=>r.json(),()=>none).then(b=>{
const s=document.getElementById("state");s.textContent=b.status;s.className=b.status
document.getElementById("more").textContent=[...b.problems,...b.degraded].join("; ")})}
look();setInterval(look,5000)
</script>
</html>
"""
