// SPDX-License-Identifier: Apache-2.0
#include "broker/options.h"

namespace fastoci {

Result<HelperOptions> Configure(HelperOptions o) {
  FASTOCI_TRY(Config c, LoadConfig(o.config));
  o.source = c.source;
  if (o.cache_device.empty() && o.cache_dir.empty()) o.cache_device = c.cache_device;
  if (o.cache_dir.empty()) o.cache_dir = c.cache_dir;
  if (o.cache_size_mb == 0)
    o.cache_size_mb = (o.cache_size_gb ? o.cache_size_gb : c.cache_size_gb) << 10;
  if (o.chunk_kb == 0) o.chunk_kb = static_cast<uint32_t>(c.chunk_kb);
  if (o.credentials.empty()) o.credentials = c.credentials;
  o.hosts_dir = c.hosts_dir;
  o.p2p = c.p2p;
  o.p2p_proxy = c.p2p_proxy;
  o.keep_cache = c.keep_cache;
  o.scrub = c.scrub_at_start;
  if (o.cache_device.empty()) o.limits.dir = o.cache_dir;
  o.limits.min_free_bytes = c.min_free_gb << 30;
  o.limits.max_disk_percent = static_cast<uint32_t>(c.max_disk_percent);
  o.download = c.download;
  o.whole = c.whole;
  o.whole_layer_bytes = c.whole_layer_kb << 10;
  o.readahead_bytes = c.readahead_mb << 20;
  o.metrics = c.metrics;
  o.verify_on_read = c.verify_on_read;
  return o;
}

std::vector<std::string> NeedRestart(const HelperOptions& a, const HelperOptions& b) {
  std::vector<std::string> keys;
  if (a.cache_dir != b.cache_dir) keys.push_back("cacheDir");
  if (a.cache_device != b.cache_device) keys.push_back("cacheDevice");
  if (a.credentials != b.credentials) keys.push_back("credentialConfig.path");
  if (a.hosts_dir != b.hosts_dir) keys.push_back("hostsDir");
  if (a.p2p != b.p2p || a.p2p_proxy != b.p2p_proxy) keys.push_back("p2pConfig");
  if (a.whole != b.whole) keys.push_back("wholeBlob");
  if (a.whole_layer_bytes != b.whole_layer_bytes) keys.push_back("wholeLayerKB");
  if (a.verify_on_read != b.verify_on_read) keys.push_back("verifyOnRead");
  return keys;
}

}  // namespace fastoci
