-- Replays prebuilt bodies with wrk, each once, to check the rates of our own generator against an independent one.
-- BENCH_BODIES, BENCH_INDEX: the files of benchmarks/harness/workloads.py; BENCH_RUNS: run ids, joined by commas;
-- BENCH_PATH: the route. Start wrk with one thread.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct __attribute__((packed)) { uint64_t offset; uint32_t length, run, points; } entry_t;
]]

local function read_all(path)
  local file = assert(io.open(path, "rb"))
  local data = file:read("*a")
  file:close()
  return data
end

local index, entries, count, bodies, openings, head
local sent = 0

function init()
  index = read_all(os.getenv("BENCH_INDEX"))
  -- A .npy file of version 1: the length of its header stands at byte 8.
  local start = 10 + index:byte(9) + 256 * index:byte(10)
  entries = ffi.cast("entry_t *", ffi.cast("const char *", index) + start)
  count = (#index - start) / ffi.sizeof("entry_t")
  bodies = assert(io.open(os.getenv("BENCH_BODIES"), "rb"))
  openings = {}
  for id in os.getenv("BENCH_RUNS"):gmatch("[^,]+") do
    openings[#openings + 1] = '{"run_id": "' .. id
  end
  head = "POST " .. os.getenv("BENCH_PATH") .. " HTTP/1.1\r\nHost: " .. wrk.host .. ":" .. wrk.port
    .. "\r\nContent-Type: application/json\r\nContent-Length: "
end

function request()
  -- More requests than bodies: what is sent again is an identical point, and the caller is told.
  local entry = entries[sent % count]
  sent = sent + 1
  local opening = openings[tonumber(entry.run) + 1]
  bodies:seek("set", tonumber(entry.offset))
  local tail = bodies:read(tonumber(entry.length))
  return table.concat({ head, #opening + #tail, "\r\n\r\n", opening, tail })
end

function done(summary, latency, requests)
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "not_2xx": %d, "socket_errors": %d, "p50_ms": %f, "p99_ms": %f}\n',
    summary.requests, summary.duration / 1e6, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
