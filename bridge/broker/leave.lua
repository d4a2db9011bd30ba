-- Forgets consumers of a group that have nothing pending: the one that leaves, and those long gone.
--
-- KEYS  1 the stream
-- ARGV  1 group  2 the consumer that leaves  3 idle milliseconds after which another is long gone

local all = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if all.err then
    return 0 -- no such stream or group: nothing to forget
end
local forgotten = 0
for _, flat in ipairs(all) do
    local consumer = {}
    for i = 1, #flat, 2 do
        consumer[flat[i]] = flat[i + 1]
    end
    if consumer.pending == 0 and (consumer.name == ARGV[2] or consumer.idle >= tonumber(ARGV[3])) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
        forgotten = forgotten + 1
    end
end
return forgotten
