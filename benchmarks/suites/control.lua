-- Requests of the control plane, each another one. CONTROL_KIND: which; CONTROL_RUNS: run ids, joined by commas;
-- CONTROL_EXPERIMENT: an experiment's id; CONTROL_TOKEN: makes keys unique from one measurement to the next.

local kind, experiment, token = os.getenv("CONTROL_KIND"), os.getenv("CONTROL_EXPERIMENT"), os.getenv("CONTROL_TOKEN")
local runs, sent, thread = {}, 0, 0
local threads = 0

function setup(t)
  threads = threads + 1
  t:set("number", threads)
end

function init()
  for id in os.getenv("CONTROL_RUNS"):gmatch("[^,]+") do runs[#runs + 1] = id end
end

local function post(path, body)
  return wrk.format("POST", "/api/2.0/mlflow/" .. path, { ["Content-Type"] = "application/json" }, body)
end

function request()
  sent = sent + 1
  local run = runs[sent % #runs + 1]
  local unique = token .. number .. "_" .. sent
  if kind == "create" then
    return post("runs/create", '{"experiment_id":"' .. experiment .. '","user_id":"u","start_time":1700000000000,'
      .. '"tags":[{"key":"mlflow.user","value":"u"},{"key":"mlflow.source.name","value":"train.py"}]}')
  elseif kind == "log-parameter" then
    return post("runs/log-parameter",
      '{"run_id":"' .. run .. '","run_uuid":"' .. run .. '","key":"p' .. unique .. '","value":"0.001"}')
  elseif kind == "set-tag" then
    return post("runs/set-tag",
      '{"run_id":"' .. run .. '","run_uuid":"' .. run .. '","key":"t' .. sent % 20 .. '","value":"' .. sent .. '"}')
  elseif kind == "update" then
    return post("runs/update",
      '{"run_id":"' .. run .. '","run_uuid":"' .. run .. '","status":"RUNNING","end_time":' .. 1700000000000 + sent .. "}")
  elseif kind == "params-50" then
    local params = {}
    for n = 1, 50 do params[n] = '{"key":"b' .. unique .. "_" .. n .. '","value":"0.001"}' end
    return post("runs/log-batch", '{"run_id":"' .. run .. '","params":[' .. table.concat(params, ",") .. "]}")
  end
  return wrk.format("GET", "/api/2.0/mlflow/runs/get?run_id=" .. run .. "&run_uuid=" .. run)
end

function done(summary, latency)
  io.write(string.format(
    '{"requests": %d, "seconds": %f, "not_2xx": %d, "socket_errors": %d, "p50_ms": %f, "p99_ms": %f}\n',
    summary.requests, summary.duration / 1e6, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
