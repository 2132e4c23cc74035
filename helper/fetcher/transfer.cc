// SPDX-License-Identifier: Apache-2.0
#include "fetcher/transfer.h"

#include <algorithm>
#include <ctime>

#include "base/lower.h"
#include "http/retry.h"

namespace fastoci {
namespace {

using Fault = FetchVerdict::Fault;

// What registries answer with 400 when a token or a login has expired: ECR Public
// says "Your Authorization Token has expired" or "is invalid".
bool SpeaksOfCredentials(const std::string& body) {
  const std::string words = Lower(body);
  for (const char* sign : {"authorization token", "unauthorized", "denied", "expired"})
    if (words.find(sign) != std::string::npos) return true;
  return false;
}

bool RefusesCredentials(const HttpResponse& response) {
  return response.status == 401 || response.status == 403 ||
         (response.status == 400 && SpeaksOfCredentials(response.error_body));
}

// The host's part of a URL, for people.
std::string Origin(const std::string& url) {
  auto origin = UrlOrigin(url);
  return origin.ok() ? *origin : "?";
}

}  // namespace

Transfer::Transfer(Env env, uint64_t number, std::shared_ptr<const Location> location,
                   uint64_t offset, std::span<uint8_t> out, bool fresh)
    : env_(std::move(env)),
      number_(number),
      location_(std::move(location)),
      offset_(offset),
      out_(out),
      fresh_(fresh),
      reader_({offset, out.size(), location_->blob_bytes}) {
  sink_ = [this](ByteSpan bytes) {
    std::copy(bytes.begin(), bytes.end(), out_.begin() + static_cast<ptrdiff_t>(total_));
    total_ += bytes.size();
    env_.on_data();
    return OkStatus();
  };
}

Transfer::~Transfer() {
  if (exchange_ != 0) env_.http->Cancel(exchange_);
  if (env_.tokens != nullptr) env_.tokens->Cancel(number_);
}

void Transfer::Start() {
  if (location_->host == kLocalHost) return ReadFile();
  if (fresh_) env_.redirects->Drop(location_->number);
  std::string target = env_.redirects->Find(location_->number, std::time(nullptr));
  if (target.empty()) return AskForToken();
  at_redirect_ = true;
  Send(target, Secret(), /*away=*/true);
}

void Transfer::Cancel() {
  if (ended_) return;
  if (read_ != 0) return env_.files->Cancel(read_);
  if (exchange_ != 0) env_.http->Cancel(exchange_);
  exchange_ = 0;
  if (env_.tokens != nullptr) env_.tokens->Cancel(number_);
  End(FetchOutcome::kCanceled, Fault::kNone, CanceledError());
}

void Transfer::ReadFile() {
  read_ = env_.files->Read(
      location_->path, location_->blob_bytes, offset_, out_, [this](Status s) {
        read_ = 0;
        if (s.ok()) {
          total_ = out_.size();
          return End(FetchOutcome::kDone, Fault::kNone, std::nullopt);
        }
        const Error& e = s.error();
        FetchOutcome outcome = FetchOutcome::kTransient;
        if (IsCanceled(e)) outcome = FetchOutcome::kCanceled;
        if (e.kind == ErrorKind::kNotFound) outcome = FetchOutcome::kGone;
        if (e.kind == ErrorKind::kMismatch || e.kind == ErrorKind::kInvalid)
          outcome = FetchOutcome::kMismatch;
        End(outcome, Fault::kLocation, e);
      });
}

void Transfer::AskForToken() {
  if (location_->without_authorization) return Send(location_->url, Secret(), /*away=*/false);
  env_.tokens->Get(location_->scope, number_,
                   [this](Result<Secret> value, const TokenSource::Cost& cost) {
                     TakeToken(std::move(value), cost);
                   });
}

void Transfer::TakeToken(Result<Secret> value, const TokenSource::Cost& cost) {
  tally_.requests += cost.requests;
  tally_.tokens += cost.tokens;
  if (value.ok()) return Send(location_->url, std::move(*value), /*away=*/false);
  verdict_.retry_after_ms = cost.retry_after_ms;
  bool refused = value.error().kind == ErrorKind::kDenied;
  Error e = refused ? value.error().Wrap("credentials") : value.error();
  End(FetchOutcome::kTransient, refused ? Fault::kCredentials : Fault::kTokenServer, e);
}

void Transfer::Send(const std::string& url, Secret authorization, bool away) {
  authorization_ = authorization;
  HttpRequest request;
  request.url = url;
  request.authorization = std::move(authorization);
  request.tally = &tally_;
  request.fresh_connection = fresh_;
  request.site = location_->site;
  request.away = away;
  if (fresh_) request.headers = {{"Cache-Control", "no-cache"}};
  reader_.Ask(&request, sink_);
  exchange_ = env_.http->Start(std::move(request), [this, url](Result<HttpResponse> response) {
    exchange_ = 0;
    OnAnswer(url, std::move(response));
  });
}

void Transfer::OnAnswer(const std::string& asked, Result<HttpResponse> response) {
  if (response.ok() && response->status / 100 == 2 && response->url != asked &&
      !location_->is_peer())
    env_.redirects->Put(location_->number, response->url, std::time(nullptr));
  // Complete even if the connection broke after the last byte.
  if (reader_.complete()) return End(FetchOutcome::kDone, Fault::kNone, std::nullopt);
  if (!response.ok()) return OnFailure(response.error());
  if (response->status / 100 == 2) return OnFailure(reader_.ShortBody());
  OnStatus(asked, *response);
}

void Transfer::OnFailure(const Error& error) {
  // The other end sent something else than it should: that concerns only this blob.
  if (error.kind == ErrorKind::kMismatch)
    return End(FetchOutcome::kMismatch, Fault::kNone, error);
  if (total_ == 0 && LeaveRedirect()) return;
  End(FetchOutcome::kTransient,
      error.kind == ErrorKind::kInvalid ? Fault::kLocation : Fault::kServer, error);
}

bool Transfer::LeaveRedirect() {
  if (!at_redirect_) return false;
  at_redirect_ = false;
  env_.redirects->Drop(location_->number);
  tally_.retries++;
  AskForToken();
  return true;
}

void Transfer::OnStatus(const std::string& asked, const HttpResponse& response) {
  int status = response.status;
  // A redirect's target may refuse us too, but it gets no credentials.
  bool registry = Origin(response.url) == Origin(asked);
  Error error = StatusError(response);
  if (!registry) error.message += " at " + Origin(response.url);
  verdict_.http_status = static_cast<uint32_t>(status);
  // The URL of the redirect may be no longer good.
  if (status < 500 && status != 429 && LeaveRedirect()) return;
  verdict_.retry_after_ms = ParseRetryAfterMs(response.Header("retry-after"));
  if (status == 429 || (status >= 500 && verdict_.retry_after_ms >= 0))
    return End(FetchOutcome::kTransient, Fault::kOverload, error);
  if (status == 408 || status >= 500)
    return End(FetchOutcome::kTransient, Fault::kServer, error);
  if (status == 404 || status == 410) return End(FetchOutcome::kGone, Fault::kNone, error);
  if (status == 416) return End(FetchOutcome::kMismatch, Fault::kNone, error);
  // A peer that is not let in: the registry itself says what it wants.
  if (!registry || location_->is_peer() || location_->without_authorization ||
      !RefusesCredentials(response))
    return End(FetchOutcome::kTransient, Fault::kLocation, error);
  if (renewed_)
    return End(FetchOutcome::kTransient, Fault::kCredentials, error.Wrap("credentials"));
  renewed_ = true;
  tally_.retries++;
  env_.tokens->Renew(location_->scope, authorization_, response, number_,
                     [this](Result<Secret> value, const TokenSource::Cost& cost) {
                       TakeToken(std::move(value), cost);
                     });
}

Error Transfer::Describe(const Error& error) const {
  return error.Wrap("blob " + location_->digest + " bytes " + std::to_string(offset_) + "-" +
                    std::to_string(offset_ + out_.size() - 1) + ": " + location_->name);
}

void Transfer::End(FetchOutcome outcome, Fault fault, std::optional<Error> error) {
  ended_ = true;
  verdict_.outcome = outcome;
  verdict_.fault = outcome == FetchOutcome::kTransient ? fault : Fault::kNone;
  if (error) verdict_.cause = error->message;
  verdict_.requests = tally_.requests;
  verdict_.bytes = total_;
  if (error) error = Describe(*error);
  env_.on_end(std::move(error));
}

}  // namespace fastoci
