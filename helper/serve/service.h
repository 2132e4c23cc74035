// SPDX-License-Identifier: Apache-2.0
// The service behind `convertor --serve`: takes notifications of pushes, queues what
// its rules match, and converts it, one manifest of a repository once. The artifact
// becomes a referrer of the image, so that its reference stays as it is.
//
// Each conversion is a process of its own (this program with -r, -g, --referrer), with
// limits on memory and time. So a hostile image harms nothing but its own conversion.
#ifndef FASTOCI_SERVE_SERVICE_H_
#define FASTOCI_SERVE_SERVICE_H_

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "registry/client.h"
#include "serve/http_server.h"
#include "serve/page.h"
#include "serve/queue.h"
#include "serve/rules.h"

namespace fastoci {

class ConvertService {
 public:
  // program: the convertor, a path.
  static Result<std::unique_ptr<ConvertService>> Open(ServeConfig config, std::string program);
  ~ConvertService();

  // Listens and converts until Stop().
  Status Serve();
  // Any thread. It is not async-signal-safe.
  void Stop();
  // Queues every tag of every repository that a rule matches, converts until the
  // queue is empty, and returns how many failed.
  Result<uint64_t> Sweep();

  uint16_t port() const { return server_ ? server_->port() : 0; }
  ServedReply Handle(const ServedRequest& request);

 private:
  ConvertService() = default;
  ServedReply Notify(const ServedRequest& request);
  ServeFigures Figures();
  void Work(size_t number, bool until_empty);
  void Run(const ServeJob& job, size_t number);
  // Returns "" if the image is to be converted, else the reason why not. bytes: the size of its
  // layers.
  Result<std::string> WhyNot(const ServeJob& job, const ServeRule& rule, uint64_t* bytes);
  Result<std::string> Convert(const ServeJob& job, const ServeRule& rule, size_t number);
  void Ended(const ServeJob& job, const Error& error);

  ServeConfig config_;
  std::string program_, token_;
  std::unique_ptr<ServeQueue> queue_;
  std::unique_ptr<RegistryClient> client_;
  std::unique_ptr<HttpServer> server_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;        // guarded by mutex_
  ServeFigures figures_;     // guarded by mutex_
};

}  // namespace fastoci

#endif  // FASTOCI_SERVE_SERVICE_H_
