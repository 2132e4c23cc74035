// SPDX-License-Identifier: Apache-2.0
// What fastoci prints: results on stdout as text or JSON, progress and errors
// on stderr; a bar where stderr is a terminal, plain lines otherwise.
#ifndef FASTOCI_TOOLS_FASTOCI_OUTPUT_H_
#define FASTOCI_TOOLS_FASTOCI_OUTPUT_H_

#include <chrono>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "attach/attach.h"
#include "attach/doctor.h"
#include "attach/progress.h"
#include "attach/usage.h"
#include "base/result.h"

namespace fastoci {

enum ExitCode {
  kExitOk = 0,
  kExitFailed = 1,
  kExitUsage = 2,
  kExitNotFound = 3,
  kExitUnavailable = 4,
  kExitDenied = 5,
  kExitBusy = 6,
  kExitRefused = 7,
};

ExitCode ExitCodeOf(const Error& error);

class TerminalProgress : public Progress {
 public:
  explicit TerminalProgress(bool quiet);
  ~TerminalProgress() override;
  void Step(const std::string& what) override;
  void Warn(const std::string& what) override;
  void Bytes(uint64_t done, uint64_t total) override;
  void End();  // the bar's line is finished

 private:
  bool quiet_, terminal_;
  bool open_line_ = false;
  std::string step_;
  std::chrono::steady_clock::time_point last_{};
};

nlohmann::ordered_json ReportJson(const ImageReport& image);
void PrintJson(const nlohmann::ordered_json& json);
void PrintList(const std::vector<ImageReport>& images);
// What InspectImage() reports.
void PrintLayers(const nlohmann::ordered_json& layers);
void PrintStatus(const ImageReport& image);
nlohmann::ordered_json WaitsJson(const std::vector<HostWait>& waits);
void PrintPs(const std::vector<ImageReport>& images);
nlohmann::ordered_json FindingsJson(const std::vector<Finding>& findings);
void PrintFindings(const std::vector<Finding>& findings);
// The helper's answer to "stat".
void PrintHelper(const nlohmann::json& stat);
// Text on stderr; with json an object on stdout as well.
ExitCode PrintError(const Error& error, bool json);

}  // namespace fastoci

#endif  // FASTOCI_TOOLS_FASTOCI_OUTPUT_H_
