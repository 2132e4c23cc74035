// SPDX-License-Identifier: Apache-2.0
#include "serve/page.h"

#include <cstdio>
#include <ctime>

namespace fastoci {
namespace {

constexpr char kHead[] = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>FastOCI conversions</title>
<style>
:root { color-scheme: light dark; --fg: #1c2024; --dim: #60646c; --bg: #fcfcfd; --card: #ffffff;
  --line: #e0e1e6; --good: #18794e; --bad: #ce2c31; --busy: #0d74ce; }
@media (prefers-color-scheme: dark) { :root { --fg: #edeef0; --dim: #b0b4ba; --bg: #111113;
  --card: #18191b; --line: #363a3f; --good: #3dd68c; --bad: #ff9592; --busy: #70b8ff; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--fg); background: var(--bg);
  margin: 0 auto; padding: 24px; max-width: 1200px; }
h1 { font-size: 20px; margin: 0 0 4px; }
p { color: var(--dim); margin: 0 0 20px; }
dl { display: flex; flex-wrap: wrap; gap: 12px; margin: 0 0 24px; }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 16px; min-width: 92px; }
dt { color: var(--dim); font-size: 13px; }
dd { margin: 0; font-size: 22px; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; background: var(--card); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 8px 12px; border-top: 1px solid var(--line); vertical-align: top; }
th { color: var(--dim); font-weight: 500; font-size: 13px; border-top: 0; white-space: nowrap; }
td { overflow-wrap: anywhere; } td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
code { font: 13px ui-monospace, monospace; color: var(--dim); }
.done { color: var(--good); } .failed { color: var(--bad); } .running { color: var(--busy); }
.waiting, .skipped { color: var(--dim); }
</style></head><body>
)";

std::string Size(uint64_t bytes) {
  if (bytes == 0) return "";
  char text[32];
  const double mib = static_cast<double>(bytes) / (1 << 20);
  if (mib < 0.1) std::snprintf(text, sizeof(text), "%.1f KiB", mib * 1024);
  else if (mib >= 1024) std::snprintf(text, sizeof(text), "%.1f GiB", mib / 1024);
  else std::snprintf(text, sizeof(text), mib < 10 ? "%.1f MiB" : "%.0f MiB", mib);
  return text;
}

std::string Duration(int64_t seconds) {
  if (seconds < 0) seconds = 0;
  if (seconds < 60) return std::to_string(seconds) + " s";
  if (seconds < 3600) return std::to_string(seconds / 60) + " min";
  if (seconds < 86400) return std::to_string(seconds / 3600) + " h";
  return std::to_string(seconds / 86400) + " d";
}

std::string Took(const ServeJob& j, int64_t now) {
  if (j.state == "running") return Duration(now - j.begun_at);
  if (j.begun_at == 0 || j.ended_at == 0) return "";
  return Duration(j.ended_at - j.begun_at);
}

std::string Row(const ServeJob& j, int64_t now) {
  const std::string name = EscapeHtml(j.repository) + (j.tag.empty() ? "" : ":" + EscapeHtml(j.tag));
  std::string note = EscapeHtml(j.message);
  if (j.state == "waiting" && j.tries > 0 && j.next_at > now)
    note += " (again in " + Duration(j.next_at - now) + ", try " + std::to_string(j.tries + 1) + ")";
  if (!j.result.empty()) note = "<code>" + EscapeHtml(j.result.substr(0, 19)) + "</code>";
  const int64_t when = j.ended_at != 0 ? j.ended_at : j.queued_at;
  return "<tr><td class=\"" + EscapeHtml(j.state) + "\">" + EscapeHtml(j.state) + "</td><td>" + name +
         "<br><code>" + EscapeHtml(j.digest.substr(0, 19)) + "</code></td><td class=\"n\">" +
         Size(j.bytes) + "</td><td class=\"n\">" + Duration(now - when) + " ago</td><td class=\"n\">" +
         Took(j, now) + "</td><td>" + note + "</td></tr>\n";
}

std::string Figure(const char* name, uint64_t value) {
  return std::string("<div><dt>") + name + "</dt><dd>" + std::to_string(value) + "</dd></div>";
}

}  // namespace

std::string EscapeHtml(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '"') out += "&quot;";
    else if (c == '\'') out += "&#39;";
    else out += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return out;
}

std::string ServePage(const ServeFigures& f, const std::vector<ServeJob>& jobs) {
  auto count = [&](const char* state) {
    auto it = f.jobs.find(state);
    return it == f.jobs.end() ? 0 : it->second;
  };
  std::string page = kHead;
  page += "<h1>FastOCI conversions</h1><p>" + EscapeHtml(f.registry) + "</p><dl>" +
          Figure("running", count("running")) + Figure("waiting", count("waiting")) +
          Figure("done", count("done")) + Figure("skipped", count("skipped")) +
          Figure("failed", count("failed")) + Figure("notifications", f.notifications) + "</dl>\n";
  if (jobs.empty()) {
    page += "<p>No image that a rule matches has been pushed yet.</p>";
  } else {
    page += "<div class=\"scroll\"><table><thead><tr><th>state</th><th>image</th><th class=\"n\">size</th>"
            "<th class=\"n\">when</th><th class=\"n\">took</th><th>result</th></tr></thead><tbody>\n";
    for (const ServeJob& j : jobs) page += Row(j, f.now);
    page += "</tbody></table></div>";
  }
  return page + "</body></html>\n";
}

std::string ServeMetrics(const ServeFigures& f) {
  std::string out;
  auto metric = [&](const char* name, const char* type, const char* help) {
    out += std::string("# HELP ") + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
  };
  auto value = [&](const std::string& name, const std::string& v) { out += name + " " + v + "\n"; };
  metric("fastoci_convertor_jobs", "gauge", "Images in the queue, by state.");
  for (const auto& [state, n] : f.jobs)
    value("fastoci_convertor_jobs{state=\"" + state + "\"}", std::to_string(n));
  metric("fastoci_convertor_notifications_total", "counter", "Notifications that were accepted.");
  value("fastoci_convertor_notifications_total", std::to_string(f.notifications));
  metric("fastoci_convertor_notifications_refused_total", "counter",
         "Notifications that were refused: malformed, or without the token.");
  value("fastoci_convertor_notifications_refused_total", std::to_string(f.refused));
  metric("fastoci_convertor_conversions_total", "counter", "Conversions that ended, by result.");
  const std::pair<const char*, uint64_t> results[] = {{"done", f.converted},
                                                      {"failed", f.failed},
                                                      {"retried", f.retried},
                                                      {"skipped", f.skipped}};
  for (const auto& [result, n] : results)
    value(std::string("fastoci_convertor_conversions_total{result=\"") + result + "\"}",
          std::to_string(n));
  metric("fastoci_convertor_bytes_total", "counter", "Bytes of the layers that were converted.");
  value("fastoci_convertor_bytes_total", std::to_string(f.bytes));
  metric("fastoci_convertor_seconds_total", "counter", "Seconds that conversions took.");
  char seconds[32];
  std::snprintf(seconds, sizeof(seconds), "%.3f", f.seconds);
  value("fastoci_convertor_seconds_total", seconds);
  return out;
}

}  // namespace fastoci
