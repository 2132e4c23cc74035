// SPDX-License-Identifier: Apache-2.0
#include "tools/fastoci/output.h"

#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "base/format.h"
#include "base/json.h"
#include "base/utf8.h"

namespace fastoci {
namespace {

constexpr int kBarCells = 30;
constexpr std::chrono::milliseconds kRedraw(100);

using Json = nlohmann::ordered_json;

std::string Percent(uint64_t part, uint64_t whole) {
  if (whole == 0) return "-";
  char text[16];
  std::snprintf(text, sizeof(text), "%.1f%%",
                100.0 * static_cast<double>(part) / static_cast<double>(whole));
  return text;
}

std::string Join(const std::vector<std::string>& words) {
  std::string all;
  for (const std::string& w : words) all += (all.empty() ? "" : " ") + w;
  return all.empty() ? "-" : all;
}

void Row(const char* key, const std::string& value) {
  std::printf("  %-10s %s\n", key, value.empty() ? "-" : Printable(value).c_str());
}

std::string U(uint64_t v) { return std::to_string(v); }

}  // namespace

ExitCode ExitCodeOf(const Error& error) {
  if (error.err == EBUSY || error.err == EEXIST) return kExitBusy;
  switch (error.kind) {
    case ErrorKind::kNotFound: return kExitNotFound;
    case ErrorKind::kUnavailable: return kExitUnavailable;
    case ErrorKind::kDenied: return kExitDenied;
    case ErrorKind::kInvalid:
    case ErrorKind::kMismatch:
    case ErrorKind::kUnsupported: return kExitRefused;
    default: break;
  }
  return error.err == EPERM || error.err == EACCES ? kExitDenied : kExitFailed;
}

TerminalProgress::TerminalProgress(bool quiet) : quiet_(quiet), terminal_(::isatty(2) == 1) {}
TerminalProgress::~TerminalProgress() { End(); }

void TerminalProgress::End() {
  if (open_line_) std::fputc('\n', stderr);
  open_line_ = false;
}

void TerminalProgress::Step(const std::string& what) {
  step_ = Printable(what);
  End();
  if (quiet_) return;
  if (terminal_) {
    std::fprintf(stderr, "\r\033[K%s", step_.c_str());
    open_line_ = true;
  } else {
    std::fprintf(stderr, "%s\n", step_.c_str());
  }
}

void TerminalProgress::Warn(const std::string& what) {
  End();
  std::fprintf(stderr, "fastoci: warning: %s\n", Printable(what).c_str());
}

void TerminalProgress::Bytes(uint64_t done, uint64_t total) {
  if (quiet_ || !terminal_) return;
  auto now = std::chrono::steady_clock::now();
  if (now - last_ < kRedraw && done < total) return;
  last_ = now;
  std::string bar;
  if (total > 0) {
    int full = static_cast<int>(kBarCells * std::min(done, total) / total);
    bar = " [" + std::string(static_cast<size_t>(full), '#') +
          std::string(static_cast<size_t>(kBarCells - full), '.') + "]";
  }
  std::fprintf(stderr, "\r\033[K%s%s %s", step_.c_str(), bar.c_str(), HumanBytes(done).c_str());
  std::fflush(stderr);
  open_line_ = true;
}

Json ReportJson(const ImageReport& r) {
  Json j = {{"name", r.name},
            {"ref", r.state.ref},
            {"attached", r.attached},
            {"manifest_digest", r.state.manifest_digest},
            {"meta_image", r.state.meta_path},
            {"meta_sha256", r.state.meta_sha256}};
  if (!r.attached) return j;
  j["device"] = r.device;
  j["device_number"] = U(r.major) + ":" + U(r.minor);
  j["device_bytes"] = r.sectors * 512;
  j["meta_device"] = r.meta_device;
  j["cache_device"] = r.cache_device;
  j["open_count"] = r.open_count;
  j["suspended"] = r.suspended;
  j["mounts"] = r.mounts;
  if (r.status) {
    const ImageStatus& s = *r.status;
    j["image_id"] = s.image_id;
    j["extents"] = s.extents;
    j["chunks_cached"] = s.chunks_cached;
    j["chunks_total"] = s.chunks_total;
    j["hits"] = s.hits;
    j["misses"] = s.misses;
    j["pending"] = s.pending;
    j["errors"] = s.errors;
    j["helper"] = s.helper;
    j["policy"] = s.policy;
  }
  return j;
}

void PrintJson(const Json& json) {
  std::printf("%s\n", json.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
}

void PrintList(const std::vector<ImageReport>& images) {
  if (images.empty()) {
    std::printf("no images; attach one with: fastoci attach HOST/REPOSITORY:TAG\n");
    return;
  }
  size_t name = 4, ref = 5;
  for (const auto& r : images) {
    name = std::max(name, r.name.size());
    ref = std::max(ref, r.state.ref.size());
  }
  int n = static_cast<int>(name), w = static_cast<int>(ref);
  std::printf("%-*s  %-*s  %-8s  %-7s  %s\n", n, "NAME", w, "IMAGE", "STATE", "CACHED", "MOUNTED AT");
  for (const auto& r : images) {
    const char* state = !r.attached ? r.state.seeded ? "seeded" : "kept" : r.suspended ? "suspended" : "attached";
    std::string cached = r.status ? Percent(r.status->chunks_cached, r.status->chunks_total) : "-";
    std::printf("%-*s  %-*s  %-8s  %-7s  %s\n", n, r.name.c_str(), w,
                r.state.ref.empty() ? "-" : r.state.ref.c_str(), state, cached.c_str(),
                Join(r.mounts).c_str());
  }
}

Json WaitsJson(const std::vector<HostWait>& waits) {
  Json list = Json::array();
  for (const HostWait& w : waits)
    list.push_back({{"host", w.host},
                    {"cause", w.cause},
                    {"since_ms", w.since_ms},
                    {"next_try_ms", w.next_try_ms}});
  return list;
}

void PrintPs(const std::vector<ImageReport>& images) {
  size_t name = 4;
  for (const auto& r : images) name = std::max(name, r.name.size());
  int n = static_cast<int>(name);
  std::printf("%-*s  %-6s  %10s  %7s  %6s  %-7s  %s\n", n, "NAME", "LOCAL", "MISSES", "WAITING",
              "FAILED", "HELPER", "POLICY");
  for (const auto& r : images) {
    if (!r.status) {
      std::printf("%-*s  -\n", n, r.name.c_str());
      continue;
    }
    const ImageStatus& s = *r.status;
    std::printf("%-*s  %-6s  %10" PRIu64 "  %7" PRIu64 "  %6" PRIu64 "  %-7s  %s%s\n", n,
                r.name.c_str(), Percent(s.chunks_cached, s.chunks_total).c_str(), s.misses,
                s.pending, s.errors, s.helper.c_str(), s.policy.c_str(),
                r.suspended ? ", suspended" : "");
  }
}

Json FindingsJson(const std::vector<Finding>& findings) {
  Json list = Json::array();
  for (const Finding& f : findings) {
    list.push_back({{"health", HealthName(f.health)}, {"what", f.what}, {"advice", f.advice}});
  }
  return list;
}

void PrintFindings(const std::vector<Finding>& findings) {
  for (const Finding& f : findings) {
    std::printf("%-8s %s\n", HealthName(f.health), PrintableLines(f.what).c_str());
    if (!f.advice.empty()) std::printf("%-8s -> %s\n", "", PrintableLines(f.advice).c_str());
  }
}

namespace {

// "1 span", "2 spans"
std::string Count(uint64_t number, const std::string& what) {
  return std::to_string(number) + " " + what + (number == 1 ? "" : "s");
}

}  // namespace

void PrintLayers(const nlohmann::ordered_json& layers) {
  uint64_t meta = 0, target = 0;
  size_t unverified = 0;
  for (const Json& layer : layers) {
    meta += JsonNumber(layer, "meta_layer_bytes");
    target += JsonNumber(layer, "target_bytes");
    std::printf("%s %s, %s\n", JsonText(layer, "kind").c_str(), JsonText(layer, "target").c_str(),
                HumanBytes(JsonNumber(layer, "target_bytes")).c_str());
    if (layer.contains("error")) {
      std::printf("  error: %s\n", Printable(JsonText(layer, "error")).c_str());
      continue;
    }
    if (uint64_t bytes = JsonNumber(layer, "meta_layer_bytes"); bytes != 0) {
      std::printf("  meta layer %s:", HumanBytes(bytes).c_str());
      for (const auto& [name, size] : layer["parts"].items())
        std::printf(" %s %s", name.c_str(), HumanBytes(size.get<uint64_t>()).c_str());
      std::printf(" (before the outer gzip)\n");
    }
    std::printf("  data %s", HumanBytes(JsonNumber(layer, "data_bytes")).c_str());
    if (layer.contains("spans")) std::printf(", %s", Count(JsonNumber(layer, "spans"), "span").c_str());
    if (const std::string members = JsonText(layer, "gzip_members"); !members.empty())
      std::printf(" in %s gzip member%s", members.c_str(), members == "one" ? "" : "s");
    if (layer.contains("blocks")) std::printf(", %s", Count(JsonNumber(layer, "blocks"), "block").c_str());
    std::printf("; %s%s%s%s\n", JsonNumber(layer, "chunk_digests") != 0 ? "verified " : "",
                JsonText(layer, "verification").c_str(),
                layer.contains("content") ? "; content " : "", JsonText(layer, "content").c_str());
    if (JsonNumber(layer, "chunk_digests") == 0) unverified++;
  }
  std::printf("%s, %s; meta layers %s", Count(layers.size(), "layer").c_str(), HumanBytes(target).c_str(),
              HumanBytes(meta).c_str());
  if (target != 0) std::printf(" (%.2f %%)", 100.0 * static_cast<double>(meta) / static_cast<double>(target));
  std::printf("; %zu without digests\n", unverified);
}

void PrintStatus(const ImageReport& r) {
  std::printf("%s\n", r.name.c_str());
  Row("image", r.state.ref);
  Row("manifest", r.state.manifest_digest);
  if (!r.attached) {
    Row("state", "not attached; its meta image is kept");
    return;
  }
  Row("device", r.device + ", " + HumanBytes(r.sectors * 512) + (r.suspended ? ", suspended" : ""));
  Row("mounted", Join(r.mounts));
  if (!r.status) {
    Row("state", "the device has no status (not made by dm-fastoci?)");
    return;
  }
  const ImageStatus& s = *r.status;
  Row("cached", U(s.chunks_cached) + " of " + U(s.chunks_total) + " chunks (" +
                    Percent(s.chunks_cached, s.chunks_total) + ")");
  Row("reads", U(s.hits) + " hits, " + U(s.misses) + " misses, " + U(s.pending) + " waiting, " +
                   U(s.errors) + " failed");
  Row("helper", s.helper);
  Row("policy", s.policy);
}

// How the layers in use are verified; each that is not, or not by anything that the
// manifest names, with the reason.
void PrintTrust(const nlohmann::json& spaces) {
  size_t by_chunk = 0, whole = 0;
  for (const auto& s : spaces) {
    if (!s.value("used", false)) continue;
    const std::string verified = s.value("verified", "");
    if (verified == "by chunk") by_chunk++;
    if (verified == "as a whole") whole++;
    if (const std::string why = s.value("why", ""); !why.empty())
      Row("layer", s.value("blob", "") + ": " + (verified == "by chunk" ? "verified by chunk" : verified) +
                       ": " + why);
  }
  if (by_chunk > 0) Row("layers", U(by_chunk) + " verified by chunk");
  if (whole > 0) Row("layers", U(whole) + " verified as a whole");
}

void PrintHelper(const nlohmann::json& stat) {
  auto text = [](const nlohmann::json& object, const char* key) -> std::string {
    if (!object.is_object() || !object.contains(key)) return "";
    auto it = object.find(key);
    return it->is_string() ? it->get<std::string>() : it->dump();
  };
  auto part = [&](const char* key) {
    auto it = stat.find(key);
    return it != stat.end() ? *it : nlohmann::json::array();
  };
  const nlohmann::json caches = part("caches"), images = part("images"), counts = part("counters");
  std::printf("helper\n");
  Row("version", text(stat, "version"));
  for (const auto& c : caches) {
    Row("cache", text(c, "device") + ": " + text(c, "present") + " of " + text(c, "nr_slots") +
                     " slots in use, " + text(c, "durable") + " durable");
    if (std::string trouble = text(c, "trouble"); !trouble.empty()) Row("trouble", trouble);
  }
  std::string counters;
  for (const auto& [key, value] : counts.items()) {
    counters += (counters.empty() ? "" : ", ") + key + " " + value.dump();
  }
  Row("counters", counters);
  PrintTrust(part("spaces"));
  for (const auto& i : images) {
    const uint64_t chunks = i.value("chunks", uint64_t{0});
    const bool local = chunks > 0 && i.value("present", uint64_t{0}) == chunks;
    if (local || i.value("pinned", false)) {
      Row("image", text(i, "image_id").substr(0, 12) + (i.value("pinned", false) ? ": pinned" : ":") +
                       (local ? " all cached: needs neither registry nor helper" : ""));
    }
    std::string error = text(i, "error");
    if (!error.empty()) Row("error", "image " + text(i, "image_id").substr(0, 12) + ": " + error);
    for (const auto& w : JsonChild(i, "waits_for"))
      Row("waits", "image " + text(i, "image_id").substr(0, 12) + " for " +
                       Describe({JsonText(w, "host"), JsonText(w, "cause"),
                                 JsonNumber(w, "since_ms"), JsonNumber(w, "next_try_ms")}));
  }
}

ExitCode PrintError(const Error& error, bool json) {
  ExitCode code = ExitCodeOf(error);
  std::fprintf(stderr, "fastoci: %s\n", PrintableLines(error.message).c_str());
  if (json) {
    PrintJson({{"error", error.message},
               {"kind", ErrorKindName(error.kind)},
               {"exit_code", static_cast<int>(code)}});
  }
  return code;
}

}  // namespace fastoci
