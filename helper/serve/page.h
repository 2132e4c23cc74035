// SPDX-License-Identifier: Apache-2.0
// What the service shows: a page for people, and metrics for Prometheus. Pure.
#ifndef FASTOCI_SERVE_PAGE_H_
#define FASTOCI_SERVE_PAGE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "serve/queue.h"

namespace fastoci {

struct ServeFigures {
  std::string registry;
  std::map<std::string, uint64_t> jobs;      // by state
  uint64_t notifications = 0, refused = 0;   // refused: no or a wrong token, malformed
  uint64_t converted = 0, skipped = 0, failed = 0, retried = 0;  // since the start
  uint64_t bytes = 0;                        // of the images that were converted
  double seconds = 0;                        // that it took
  int64_t now = 0;                           // seconds since 1970
};

// One page without scripts that reloads itself; light or dark as the reader has it.
std::string ServePage(const ServeFigures& figures, const std::vector<ServeJob>& jobs);
std::string ServeMetrics(const ServeFigures& figures);
std::string EscapeHtml(const std::string& text);

}  // namespace fastoci

#endif  // FASTOCI_SERVE_PAGE_H_
