// SPDX-License-Identifier: Apache-2.0
// Result<T>: a value or an Error. Our code throws nothing. Only kUnavailable may be
// retried, and only http/ retries.
#ifndef FASTOCI_BASE_RESULT_H_
#define FASTOCI_BASE_RESULT_H_

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <variant>

namespace fastoci {

enum class ErrorKind {
  kInvalid,      // bad input: a corrupt or hostile format, a wrong argument
  kNotFound,
  kDenied,       // credentials or permission
  kUnavailable,  // may work later: network, server error, timeout
  kMismatch,     // digest, size or range differs from what was promised
  kIo,           // a local system call failed
  kUnsupported,
  kInternal,
};

const char* ErrorKindName(ErrorKind kind);

struct Error {
  ErrorKind kind = ErrorKind::kInternal;
  int err = 0;  // errno where one is known, else 0
  std::string message;

  // Prefixes the message: "what: message".
  Error Wrap(const std::string& what) const { return {kind, err, what + ": " + message}; }
};

inline Error InvalidError(std::string m) { return {ErrorKind::kInvalid, EINVAL, std::move(m)}; }
inline Error NotFoundError(std::string m) { return {ErrorKind::kNotFound, ENOENT, std::move(m)}; }
inline Error MismatchError(std::string m) { return {ErrorKind::kMismatch, EBADMSG, std::move(m)}; }
// Appends ": " and strerror(err).
inline Error ErrnoError(const std::string& m, int err = errno) {
  return {ErrorKind::kIo, err, m + ": " + std::strerror(err)};
}

struct Ok {};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : v_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit
  Result(Error error) : v_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit
  bool ok() const { return v_.index() == 0; }
  T& value() { return *std::get_if<0>(&v_); }
  const T& value() const { return *std::get_if<0>(&v_); }
  T& operator*() { return value(); }
  const T& operator*() const { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const { return *std::get_if<1>(&v_); }

 private:
  std::variant<T, Error> v_;
};

using Status = Result<Ok>;
inline Status OkStatus() { return Ok{}; }

#define FASTOCI_CONCAT_(a, b) a##b
#define FASTOCI_CONCAT(a, b) FASTOCI_CONCAT_(a, b)
// FASTOCI_TRY(auto x, Call());  returns the Error from the enclosing function.
#define FASTOCI_TRY(decl, expr)                                        \
  auto FASTOCI_CONCAT(try_, __LINE__) = (expr);                        \
  if (!FASTOCI_CONCAT(try_, __LINE__).ok())                            \
    return FASTOCI_CONCAT(try_, __LINE__).error();                     \
  decl = std::move(FASTOCI_CONCAT(try_, __LINE__).value())
#define FASTOCI_CHECK_OK(expr)                                         \
  do {                                                                 \
    auto try_status_ = (expr);                                         \
    if (!try_status_.ok()) return try_status_.error();                 \
  } while (0)

}  // namespace fastoci

#endif  // FASTOCI_BASE_RESULT_H_
