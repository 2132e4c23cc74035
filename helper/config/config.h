// SPDX-License-Identifier: Apache-2.0
// The node's configuration: /etc/fastoci/config.json, and overlaybd's own
// overlaybd.json as it is, whose keys ours are spelled like. fastoci-config.json(5)
// lists them all with defaults and ranges.
//
// Our file is read strictly: an unknown or repeated key, a wrong type or a
// value out of range is an error with line and column. In overlaybd's file keys
// that mean nothing here are passed over. If both files exist, ours decides
// alone. Legacy keys of overlaybd are understood in its file only.
#ifndef FASTOCI_CONFIG_CONFIG_H_
#define FASTOCI_CONFIG_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace fastoci {

struct DownloadConfig {
  bool enable = false;
  uint64_t delay_s = 300;
  uint64_t delay_extra_s = 30;  // a random part of it is added
  uint64_t max_mbps = 100;      // MB per second; 0: no limit
  uint64_t tries = 5;
  uint64_t block_bytes = 262144;
};

// A blob whose chunks have no digests is read as a whole and compared with its own digest.
// This says what happens if it differs. kOff: such blobs are not read as a whole.
enum class WholePolicy { kFail, kReport, kOff };

struct MetricsConfig {
  bool enable = false;
  uint64_t port = 9863;  // on 127.0.0.1
  std::string path = "/metrics";
  bool operator==(const MetricsConfig&) const = default;
};

// Images whose repository is below prefix by MatchPrefix() ("*": all images) are attached
// only if a key in key_file has signed them. key_file "": no signature is needed. prefix is
// canonical (registry/reference.h), however the file spells it.
struct SignatureRule {
  std::string prefix;
  std::string key_file;
};

struct Config {
  std::string source;  // the file, or empty: defaults only
  bool keep_cache = true;  // gzipCacheConfig.enable
  std::string cache_dir = "/var/lib/fastoci/cache";
  uint64_t cache_size_gb = 4;
  std::string cache_device;
  uint64_t chunk_kb = 64;
  uint64_t min_free_gb = 0;
  uint64_t max_disk_percent = 100;
  bool scrub_at_start = false;
  bool verify_on_read = false;
  std::string credentials;  // a file
  std::string hosts_dir;    // of hosts.toml files, or "none"; "": containerd's and docker's
  std::string p2p;          // URL of a peer that is asked first; "": none
  std::string p2p_proxy;    // URL of an HTTP proxy that is tried first
  DownloadConfig download;
  WholePolicy whole = WholePolicy::kFail;
  uint64_t whole_layer_kb = 1024;
  uint64_t readahead_mb = 8;  // compressed, ahead of a sequential reader; 0: none
  MetricsConfig metrics;  // exporterConfig
  std::vector<SignatureRule> signatures;
};

enum class ConfigDialect { kOurs, kOverlaybd };

inline constexpr char kConfigPath[] = "/etc/fastoci/config.json";

// name: for messages.
Result<Config> ParseConfig(const std::string& text, const std::string& name, ConfigDialect dialect);
// path: that file in our dialect (overlaybd's if it is named overlaybd.json).
// Empty: the first that exists of /etc/fastoci/config.json,
// /etc/overlaybd/overlaybd.json and /etc/overlaybd/config.json, or defaults.
Result<Config> LoadConfig(const std::string& path);

}  // namespace fastoci

#endif  // FASTOCI_CONFIG_CONFIG_H_
