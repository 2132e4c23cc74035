// SPDX-License-Identifier: Apache-2.0
#include "miss/miss_tracer.h"

#include <nlohmann/json.hpp>

namespace fastoci {
namespace {

int64_t Ns(MissTracer::Time t) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(t.time_since_epoch()).count();
}

}  // namespace

std::shared_ptr<void> MissTracer::Begin() {
  readers_++;
  return std::shared_ptr<void>(nullptr, [this](void*) {
    if (--readers_ == 0) ring_.Clear();
  });
}

void MissTracer::Add(const Chunk& c) {
  if (!on()) return;
  ring_.Add({{"event", "chunk"},
             {"blob", DigestString(c.blob)},
             {"chunk", c.chunk_no},
             {"since", Ns(c.since)},
             {"picked", Ns(c.picked)},
             {"end", Ns(c.end)},
             {"ok", c.ok}});
}

void MissTracer::Add(const Request& r, Stage stage) {
  if (!on()) return;
  static constexpr const char* kEvents[] = {"begun", "progress", "request"};
  ring_.Add({{"event", kEvents[static_cast<int>(stage)]},
             {"blob", DigestString(r.blob)},
             {"span", r.span},
             {"spans", r.nr_spans},
             {"try", r.attempt + 1},
             {"background", r.background},
             {"begin", Ns(r.begin)},
             {"end", Ns(r.end)},
             {"network", r.lane.network.count()},
             {"decode", r.lane.decode.count()},
             {"verify", r.verify.count()},
             {"write", r.write.count()},
             {"bytes", r.bytes},
             {"error", r.error.substr(0, 500)}});
}

}  // namespace fastoci
