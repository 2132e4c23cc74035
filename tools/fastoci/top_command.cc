// SPDX-License-Identifier: Apache-2.0
#include "tools/fastoci/top_command.h"

#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>
#include <thread>

#include "attach/usage.h"
#include "base/format.h"
#include "tools/fastoci/output.h"
#include "tools/fastoci/screen.h"

namespace fastoci {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

std::string PerSecond(double bytes) { return HumanBytes(static_cast<uint64_t>(bytes)) + "/s"; }

std::string Age(std::optional<uint64_t> ms) {
  if (!ms) return "-";
  return *ms < 10000 ? Format("%.1f s", static_cast<double>(*ms) / 1000)
                     : Format("%" PRIu64 " s", *ms / 1000);
}

std::vector<std::string> Table(const UsageSample& before, const UsageSample& now) {
  const auto rates = Compare(before, now);
  const double seconds = std::chrono::duration<double>(now.at - before.at).count();
  size_t width = 4;
  for (const ImageRate& r : rates) width = std::max(width, r.now.name.size());
  const int w = static_cast<int>(width);
  std::vector<std::string> lines;
  const std::time_t clock = std::time(nullptr);
  struct tm local = {};
  ::localtime_r(&clock, &local);
  char when[16];
  std::strftime(when, sizeof(when), "%T", &local);
  std::string head = Format("fastoci top  %s  %s", when, Counted(rates.size(), "image").c_str());
  if (now.helper)
    head += Format("  cache %.0f%% of %s  fetched %s",
                   now.slots ? 100.0 * static_cast<double>(now.present_slots) /
                                   static_cast<double>(now.slots)
                             : 0,
                   HumanBytes(now.slots * now.slot_bytes).c_str(),
                   PerSecond(RateOf(before.fetched_bytes, now.fetched_bytes, seconds)).c_str());
  else
    head += "  no helper answers";
  lines.push_back(head);
  lines.push_back(Format("%-*s %6s %12s %6s %7s %7s %8s %10s %6s  %s", w, "NAME", "LOCAL", "READ", "HITS",
                         "WAITING", "MISSING", "OLDEST", "FETCHED", "FAILED", "POLICY"));
  for (const ImageRate& r : rates) {
    const ImageUsage& u = r.now;
    const std::string local_part =
        u.chunks ? Format("%.1f%%", 100.0 * static_cast<double>(u.present) /
                                        static_cast<double>(u.chunks))
                 : "-";
    lines.push_back(Format(
        "%-*s %6s %12s %6s %7" PRIu64 " %7s %8s %10s %6" PRIu64 "  %s", w, u.name.c_str(),
        local_part.c_str(), PerSecond(r.read_per_s).c_str(),
        r.hit_ratio ? Format("%.1f%%", 100 * *r.hit_ratio).c_str() : "-", u.waiting,
        u.in_flight ? std::to_string(*u.in_flight).c_str() : "-", Age(u.oldest_ms).c_str(),
        u.fetched_bytes ? HumanBytes(*u.fetched_bytes).c_str() : "-", u.errors,
        u.policy.c_str()));
    for (const HostWait& wait : u.waits_for) lines.push_back("  waits for " + Describe(wait));
  }
  return lines;
}

Json TopJson(const UsageSample& before, const UsageSample& now) {
  Json images = Json::array();
  for (const ImageRate& r : Compare(before, now)) {
    const ImageUsage& u = r.now;
    Json j = {{"name", u.name},
              {"chunks", u.chunks},
              {"present", u.present},
              {"read_bytes", u.read_bytes},
              {"read_bytes_per_s", r.read_per_s},
              {"hits", u.hits},
              {"misses", u.misses},
              {"hit_ratio", nullptr},
              {"waiting", u.waiting},
              {"errors", u.errors},
              {"helper", u.helper},
              {"policy", u.policy},
              {"in_flight", nullptr},
              {"oldest_ms", nullptr},
              {"fetched_bytes", nullptr},
              {"fetched_bytes_per_s", r.fetched_per_s}};
    j["waits_for"] = WaitsJson(u.waits_for);
    if (r.hit_ratio) j["hit_ratio"] = *r.hit_ratio;
    if (u.in_flight) j["in_flight"] = *u.in_flight;
    if (u.oldest_ms) j["oldest_ms"] = *u.oldest_ms;
    if (u.fetched_bytes) j["fetched_bytes"] = *u.fetched_bytes;
    images.push_back(std::move(j));
  }
  return {{"seconds", std::chrono::duration<double>(now.at - before.at).count()},
          {"helper", now.helper},
          {"cache_slots", now.slots},
          {"cache_present_slots", now.present_slots},
          {"fetched_bytes", now.fetched_bytes},
          {"images", images}};
}

void PrintPlain(const UsageSample& before, const UsageSample& now, bool json) {
  if (json) {
    std::printf("%s\n", TopJson(before, now).dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  } else {
    for (const std::string& line : Table(before, now)) std::printf("%s\n", line.c_str());
  }
  std::fflush(stdout);
}

Status OnScreen(const AttachPaths& paths, int interval_ms) {
  FASTOCI_TRY(UsageSample before, SampleUsage(paths));
  UsageSample now = before;
  Screen screen;
  auto due = Clock::now() + std::chrono::milliseconds(std::min(interval_ms, 200));  // soon the first rates
  for (;;) {
    screen.Draw(Table(before, now));
    for (;;) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(due - Clock::now()).count();
      if (left <= 0) break;
      const Screen::Event event = screen.Wait(static_cast<int>(left));
      if (event == Screen::Event::kQuit) return OkStatus();
      if (event == Screen::Event::kResized) screen.Draw(Table(before, now));
    }
    before = std::move(now);
    FASTOCI_TRY(now, SampleUsage(paths));
    due = Clock::now() + std::chrono::milliseconds(interval_ms);
  }
}

Status InLines(const AttachPaths& paths, int interval_ms, bool once, bool json) {
  FASTOCI_TRY(UsageSample before, SampleUsage(paths));
  for (;;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(interval_ms));
    FASTOCI_TRY(UsageSample now, SampleUsage(paths));
    PrintPlain(before, now, json);
    if (once) return OkStatus();
    before = std::move(now);
  }
}

}  // namespace

CLI::App* AddTopCommand(CLI::App* app, TopRequest* request) {
  CLI::App* top = app->add_subcommand("top", "show what attached images read, hit, miss and wait for");
  top->add_flag("--once", request->once, "print one interval and end");
  top->add_option("--interval", request->interval_s, "the interval in seconds (default 1)")
      ->type_name("S")
      ->check(CLI::Range(0.1, 3600.0));
  top->footer("Examples:\n  fastoci top\n  fastoci top --once --json");
  return top;
}

int RunTop(const TopRequest& request, const AttachPaths& paths, bool json) {
  const int ms = static_cast<int>(request.interval_s * 1000);
  Status status = !request.once && !json && Screen::Possible()
                      ? OnScreen(paths, ms)
                      : InLines(paths, ms, request.once, json);
  return status.ok() ? kExitOk : PrintError(status.error(), json);
}

}  // namespace fastoci
