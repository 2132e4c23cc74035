// SPDX-License-Identifier: Apache-2.0
// Leveled log to stderr, one line of printable text per record, with journald's <N> prefix when
// JOURNAL_STREAM is set. printf-style, checked by the compiler.
#ifndef FASTOCI_BASE_LOG_H_
#define FASTOCI_BASE_LOG_H_

#include "base/result.h"

namespace fastoci {

enum class LogLevel { kError = 3, kWarning = 4, kInfo = 6, kDebug = 7 };

void SetLogLevel(LogLevel max_level);
// program: static string, the prefix of each line.
void SetLogProgram(const char* program);
void Log(LogLevel level, const char* format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace fastoci

#endif  // FASTOCI_BASE_LOG_H_
