// SPDX-License-Identifier: Apache-2.0
// What the helper does: the command line, and for what that does not say the
// configuration, which may be read again while it runs.
#ifndef FASTOCI_BROKER_OPTIONS_H_
#define FASTOCI_BROKER_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "broker/limits.h"
#include "config/config.h"

namespace fastoci {

// Empty and 0: not given.
struct HelperOptions {
  std::string config;
  std::string cache_dir;
  std::string cache_device;
  uint64_t cache_size_gb = 0;
  uint64_t cache_size_mb = 0;
  uint32_t chunk_kb = 0;
  std::string libexec;
  std::string credentials;
  std::string control = "/run/fastoci/control.sock";
  std::string dev_dir = "/dev/fastoci";  // not in /run, which systemd mounts nodev
  int lanes = 8;
  uint32_t fetch_deadline_ms = 30000;
  uint32_t miss_deadline_ms = 60000;
  bool takeover = false;
  bool foreground = false;  // accepted for scripts: it always is
  bool verbose = false;
  std::vector<std::string> fetcher_args;
  // Of the configuration alone.
  std::string source;  // its file, or empty: defaults
  bool keep_cache = true;
  bool scrub = false;
  CacheLimits limits;
  DownloadConfig download;
  WholePolicy whole = WholePolicy::kFail;
  MetricsConfig metrics;
  uint64_t whole_layer_bytes = 0;
  bool verify_on_read = false;
};

// given: the command line's. An error names file, line and column.
Result<HelperOptions> Configure(HelperOptions given);

// Keys of the configuration that differ and that a running helper cannot follow.
std::vector<std::string> NeedRestart(const HelperOptions& running, const HelperOptions& wanted);

}  // namespace fastoci

#endif  // FASTOCI_BROKER_OPTIONS_H_
