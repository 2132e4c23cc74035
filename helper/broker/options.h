// SPDX-License-Identifier: Apache-2.0
// The helper's options: those of the command line, and the configuration's where the
// command line says nothing. The configuration may be read again while the helper runs.
#ifndef FASTOCI_BROKER_OPTIONS_H_
#define FASTOCI_BROKER_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "cache/limits.h"
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
  std::vector<std::string> state_dirs;  // empty: where attach and the snapshotter have theirs
  std::string dev_dir = "/dev/fastoci";  // not in /run, which systemd mounts nodev
  std::string kernel_socket;  // of a program in the kernel's place, see SocketLink
  int decoders = 0;
  uint32_t retry_scale = 100;  // percent
  uint32_t miss_deadline_ms = 60000;
  bool takeover = false;
  bool foreground = false;  // accepted for scripts: it always is
  bool verbose = false;
  std::vector<std::string> fetcher_args;
  // Only the configuration sets these.
  std::string source;  // its file, or empty: defaults
  bool keep_cache = true;
  bool scrub = false;
  CacheLimits limits;
  DownloadConfig download;
  WholePolicy whole = WholePolicy::kFail;
  MetricsConfig metrics;
  std::string p2p, p2p_proxy, hosts_dir;
  uint64_t whole_layer_bytes = 0;
  uint64_t readahead_bytes = 8 << 20;  // compressed
  bool verify_on_read = false;
};

// Adds the configuration to the command line's options (given). An error names file, line
// and column.
Result<HelperOptions> Configure(HelperOptions given);

// The keys of the configuration that differ and that take effect only after a restart.
std::vector<std::string> NeedRestart(const HelperOptions& running, const HelperOptions& wanted);

}  // namespace fastoci

#endif  // FASTOCI_BROKER_OPTIONS_H_
