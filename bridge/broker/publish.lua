-- Appends one publication to the streams, at most once, after those it must follow.
-- KEYS: iot:relay (hash: instance -> last outbox id published), iot:readings, iot:alerts
-- ARGV[1]: msgpack of {instance, outbox_id, maxlen, {{instance, outbox_id}, ...},
--          reading field names, readings, alert field names, alerts}
-- Returns 1 when it is published (now or before), 0 when it must wait.
-- Instance 0 has no order of its own (rows of other programs), so nothing is remembered for it.
local p = cmsgpack.unpack(ARGV[1])
local instance, outbox_id, maxlen = p[1], p[2], p[3]

local function reached(who, id)
  local last = redis.call('HGET', KEYS[1], who)
  return last and tonumber(last) >= id
end

if instance ~= 0 and reached(instance, outbox_id) then
  return 1
end
for _, after in ipairs(p[4]) do
  if not reached(after[1], after[2]) then
    return 0
  end
end

local function append(stream, names, entries)
  local arguments = {}
  for _, entry in ipairs(entries) do
    for i, name in ipairs(names) do
      arguments[2 * i - 1] = name
      arguments[2 * i] = entry[i]
    end
    redis.call('XADD', stream, 'MAXLEN', '~', maxlen, '*', unpack(arguments))
  end
end

append(KEYS[2], p[5], p[6])
append(KEYS[3], p[7], p[8])
if instance ~= 0 then
  redis.call('HSET', KEYS[1], instance, outbox_id)
end
return 1
