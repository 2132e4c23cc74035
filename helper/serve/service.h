// SPDX-License-Identifier: Apache-2.0
// The service behind `convertor --serve`: takes notifications of pushes, queues what
// its rules match, and converts it, one manifest of a repository once. The artifact
// becomes a referrer of the image, so that its reference stays as it is.
//
// Each conversion is a process of its own (this program with -r, -g, --referrer), with
// limits on memory and time. So a hostile image harms nothing but its own conversion.
// An image with which the service itself ends is given up after as many tries as any other.
//
// One process at a time converts in a directory. It holds a lock on it.
#ifndef FASTOCI_SERVE_SERVICE_H_
#define FASTOCI_SERVE_SERVICE_H_

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "registry/client.h"
#include "serve/http_server.h"
#include "serve/page.h"
#include "serve/queue.h"
#include "serve/rules.h"

namespace fastoci {

// What the convertor ends with if it is no use to try again.
inline constexpr int kConvertorUnsupported = 2;  // images of that kind are not supported
inline constexpr int kConvertorNoMemory = 3;

class ConvertService {
 public:
  // program: the convertor, a path.
  static Result<std::unique_ptr<ConvertService>> Open(ServeConfig config, std::string program);
  ~ConvertService();

  // Listens and converts until Stop(). EBUSY: another process converts in the directory.
  Status Serve();
  // Any thread. It is not async-signal-safe. The conversions that run wait again.
  void Stop();
  // Queues every tag of every repository that a rule matches, and converts until the queue is
  // empty. If another process converts in the directory, leaves that to it. Returns how many
  // failed, with the repositories and tags that could not be read.
  Result<uint64_t> Sweep();

  uint16_t port() const { return server_ ? server_->port() : 0; }
  ServedReply Handle(const ServedRequest& request);

 private:
  ConvertService() = default;
  ServedReply Notify(const ServedRequest& request);
  ServeFigures Figures();
  // Returns how many repositories and tags could not be read.
  Result<uint64_t> QueueAll();
  void ForgetOld();
  void Work(size_t number, bool until_empty);
  void Run(const ServeJob& job, size_t number);
  // Returns "" if the image is to be converted, else the reason why not. bytes: the size of its
  // layers.
  Result<std::string> WhyNot(const ServeJob& job, const ServeRule& rule, uint64_t* bytes);
  Result<std::string> Convert(const ServeJob& job, const ServeRule& rule, size_t number);
  void Ended(const ServeJob& job, const Error& error);
  void Record(const std::function<Status()>& write);

  ServeConfig config_;
  std::string program_, token_;
  UniqueFd lock_;      // invalid: another process converts in the directory
  std::unique_ptr<ServeQueue> queue_;
  std::unique_ptr<RegistryClient> client_;
  std::unique_ptr<HttpServer> server_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;        // guarded by mutex_
  uint64_t queued_ = 0;      // guarded by mutex_; by notifications
  int64_t forgot_at_ = 0;    // guarded by mutex_
  std::optional<Error> broken_;  // guarded by mutex_; Sweep() cannot go on
  ServeFigures figures_;     // guarded by mutex_
};

}  // namespace fastoci

#endif  // FASTOCI_SERVE_SERVICE_H_
