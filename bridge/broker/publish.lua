-- Adds the events of one outbox row to their streams, all or nothing, at most once.
--
-- KEYS  1 hash: instance -> "<outbox id>:<stored_us>" of the last row published for it
--       2 sorted set: "<outbox id>:<stored_us>" of rows of instance 0, by outbox id
--       3… the streams
-- ARGV  1 instance (empty: no outbox row, always add)  2 outbox id  3 stored_us
--       4 length to trim to  5 length to which groups may hold a stream that they have not read
--       6 msgpack: [[[instance, outbox id], …] to wait for, [[field names, rows], …] for each stream]
-- Returns {1, stream, group, lost, …} when added, with the entries trimmed before a group had read
-- them; {2} when this row was added before; {0} when a row to wait for is not there yet.
--
-- Entries are numbered: the part of an id after the hyphen is the entry's ordinal in its stream, so
-- that what was trimmed or is unread can be told from ids alone.

local SINGLES_KEPT = 10000    -- rows of instance 0 remembered
local MARKS_KEPT = 1000       -- beyond it, marks of processes long gone are forgotten
local MARK_AGE_US = 7 * 86400 * 1e6

local marks, singles = KEYS[1], KEYS[2]
local instance, outbox_id, stored_us = ARGV[1], ARGV[2], ARGV[3]
local maxlen, cap = tonumber(ARGV[4]), tonumber(ARGV[5])
local payload = cmsgpack.unpack(ARGV[6])

-- A mark with a lower stored_us is of another life of the database (made anew, or restored).
local function is_published()
    if instance == '' then
        return false
    elseif instance == '0' then
        -- Rows of instance 0 are written by any session, so their ids do not commit in order.
        return redis.call('ZSCORE', singles, outbox_id .. ':' .. stored_us)
    end
    local mark = redis.call('HGET', marks, instance)
    if not mark then
        return false
    end
    local id, us = string.match(mark, '^(%d+):(%d+)$')
    return tonumber(outbox_id) <= tonumber(id) and tonumber(stored_us) <= tonumber(us)
end

local function is_reached(other, id)
    if tonumber(other) == 0 then
        return redis.call('ZCOUNT', singles, id, id) > 0
    end
    local mark = redis.call('HGET', marks, tostring(other))
    return mark and tonumber(string.match(mark, '^%d+')) >= tonumber(id)
end

local function remember()
    local mark = outbox_id .. ':' .. stored_us
    if instance == '0' then
        redis.call('ZADD', singles, outbox_id, mark)
        redis.call('ZREMRANGEBYRANK', singles, 0, -SINGLES_KEPT - 1)
    elseif redis.call('HSET', marks, instance, mark) == 1 and redis.call('HLEN', marks) > MARKS_KEPT then
        local all = redis.call('HGETALL', marks)
        for i = 1, #all, 2 do
            if tonumber(string.match(all[i + 1], '%d+$')) < tonumber(stored_us) - MARK_AGE_US then
                redis.call('HDEL', marks, all[i])
            end
        end
    end
end

local function as_map(flat)
    local map = {}
    for i = 1, #flat, 2 do
        map[flat[i]] = flat[i + 1]
    end
    return map
end

local function parts(id)
    local ms, ordinal = string.match(id, '^(%d+)-(%d+)$')
    return tonumber(ms), tonumber(ordinal)
end

-- Last id and first ordinal of a stream. Raises on a key of another type, before anything is written.
local function look_at(stream)
    if redis.call('EXISTS', stream) == 0 then
        return {ms = 0, ordinal = 0}
    end
    local info = as_map(redis.call('XINFO', 'STREAM', stream))
    local ms, ordinal = parts(info['last-generated-id'])
    local first = info['first-entry']
    return {ms = ms, ordinal = ordinal, first = first and select(2, parts(first[1]))}
end

-- How many entries to keep: what the slowest group has not read, or not acknowledged, is kept up to the cap.
local function length_to_keep(stream, last)
    local first = last + 1
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
        local group = as_map(flat)
        local _, read = parts(group['last-delivered-id'])
        first = math.min(first, read + 1)
        if group.pending > 0 then
            local _, oldest = parts(redis.call('XPENDING', stream, group.name)[2])
            first = math.min(first, oldest)
        end
    end
    return math.max(maxlen, math.min(last - first + 1, cap))
end

local function count_lost(stream, first_before, removed, lost)
    local head = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)
    local _, first = parts(head[1][1])
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
        local group = as_map(flat)
        local _, read = parts(group['last-delivered-id'])
        local unread = math.min(removed, first - math.max(read + 1, first_before))
        if unread > 0 then
            lost[#lost + 1] = stream
            lost[#lost + 1] = group.name
            lost[#lost + 1] = unread
        end
    end
end

local function add(stream, state, now_ms, names, rows, lost)
    if #rows == 0 then
        return
    end
    local ms = string.format('%.0f', math.max(now_ms, state.ms))
    local command = {'XADD', stream, ''}
    for j, name in ipairs(names) do
        command[2 + 2 * j] = name
    end
    for i, row in ipairs(rows) do
        command[3] = string.format('%s-%.0f', ms, state.ordinal + i)
        for j = 1, #names do
            command[3 + 2 * j] = row[j]
        end
        redis.call(unpack(command))
    end
    if redis.call('XLEN', stream) <= maxlen then
        return
    end
    local keep = length_to_keep(stream, state.ordinal + #rows)
    local removed = redis.call('XTRIM', stream, 'MAXLEN', '~', string.format('%.0f', keep))
    if removed > 0 then
        count_lost(stream, state.first or state.ordinal + 1, removed, lost)
    end
end

if is_published() then
    return {2}
end
for _, dependency in ipairs(payload[1]) do
    if not is_reached(dependency[1], dependency[2]) then
        return {0}
    end
end
local states = {}
for i = 3, #KEYS do
    states[i] = look_at(KEYS[i])
end
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local answer = {1}
for i = 3, #KEYS do
    add(KEYS[i], states[i], now_ms, payload[2][i - 2][1], payload[2][i - 2][2], answer)
end
if instance ~= '' then
    remember()
end
return answer
