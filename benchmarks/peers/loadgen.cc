// Load: so many callers, each with one call at a time, on up to eight connections. The same bytes in every call.
// usage: loadgen HOST:PORT /PACKAGE.SERVICE/METHOD REQUEST_FILE CALLERS SECONDS WARM_UP_SECONDS
// Prints one line of JSON: what was answered, refused and failed after the warm-up, and how many calls there were in all; times in
// milliseconds.
// A caller that is refused (RESOURCE_EXHAUSTED) or fails waits for a moment before it calls again.
#include <grpcpp/alarm.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

using Clock = std::chrono::steady_clock;
constexpr int kConnections = 8;
constexpr auto kCallLimit = std::chrono::seconds(60);
constexpr auto kRefusedPause = std::chrono::milliseconds(50);

struct Caller {
  std::unique_ptr<grpc::ClientContext> context;
  std::unique_ptr<grpc::ClientAsyncResponseReader<grpc::ByteBuffer>> reader;
  std::unique_ptr<grpc::Alarm> pause;
  grpc::ByteBuffer answer;
  grpc::Status status;
  Clock::time_point began;
  bool pausing = false;
};

double Seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

double CpuSeconds() {
  rusage used;
  getrusage(RUSAGE_SELF, &used);
  return used.ru_utime.tv_sec + used.ru_stime.tv_sec + 1e-6 * (used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

std::vector<std::unique_ptr<grpc::GenericStub>> Connect(const std::string& address, int count) {
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs;
  for (int i = 0; i < count; i++) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    arguments.SetMaxSendMessageSize(-1);
    arguments.SetInt("grpc.use_local_subchannel_pool", 1);  // a connection of its own
    auto channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
    if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10))) {
      fprintf(stderr, "no connection to %s\n", address.c_str());
      exit(3);
    }
    stubs.push_back(std::make_unique<grpc::GenericStub>(channel));
  }
  return stubs;
}

struct Load {
  std::string method;
  grpc::ByteBuffer request;
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs;
  std::vector<Caller> callers;
  grpc::CompletionQueue queue;

  void Call(size_t i) {
    Caller& caller = callers[i];
    caller.context = std::make_unique<grpc::ClientContext>();
    caller.context->set_deadline(std::chrono::system_clock::now() + kCallLimit);
    caller.answer.Clear();
    caller.pausing = false;
    caller.began = Clock::now();
    caller.reader = stubs[i % stubs.size()]->PrepareUnaryCall(caller.context.get(), method, request, &queue);
    caller.reader->StartCall();
    caller.reader->Finish(&caller.answer, &caller.status, reinterpret_cast<void*>(i + 1));
  }

  void Pause(size_t i) {
    callers[i].pausing = true;
    callers[i].pause = std::make_unique<grpc::Alarm>();
    callers[i].pause->Set(&queue, std::chrono::system_clock::now() + kRefusedPause, reinterpret_cast<void*>(i + 1));
  }
};

double Quantile(std::vector<double>& times, double share) {
  std::sort(times.begin(), times.end());
  return times.empty() ? 0 : times[std::min(times.size() - 1, static_cast<size_t>(share * times.size()))];
}

struct Found {
  std::vector<double> times, refusals;  // milliseconds each took
  size_t failed = 0;
  size_t calls = 0;  // that ended, those of the warm-up and those after the time too
  int code = 0;  // of the last that failed
  double seconds = 0, cpu = 0;

  void Add(const Caller& caller, Clock::time_point now) {
    if (caller.status.ok()) {
      times.push_back(1e3 * Seconds(now - caller.began));
    } else if (caller.status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
      refusals.push_back(1e3 * Seconds(now - caller.began));
    } else {
      failed++;
      code = caller.status.error_code();
    }
  }

  void Print() {
    printf("{\"answered\": %zu, \"rps\": %.2f, \"p50\": %.4f, \"p99\": %.4f, ", times.size(), times.size() / seconds, Quantile(times, .5),
           Quantile(times, .99));
    printf("\"refused\": %zu, \"refused_p50\": %.4f, \"refused_p99\": %.4f, ", refusals.size(), Quantile(refusals, .5),
           Quantile(refusals, .99));
    printf("\"failed\": %zu, \"code\": %d, \"calls\": %zu, ", failed, code, calls);
    printf("\"seconds\": %.3f, \"client_cpu\": %.3f}\n", seconds, cpu);
  }
};

// Until the time is over and every call has ended: no server is left with a call that nobody waits for.
Found Run(Load& load, double seconds, double warm_up) {
  Found found;
  const auto began = Clock::now();
  Clock::time_point measured_from;
  bool measuring = false, over = false;
  for (size_t i = 0; i < load.callers.size(); i++) load.Call(i);
  for (size_t running = load.callers.size(); running > 0;) {
    void* tag;
    bool ok;
    load.queue.Next(&tag, &ok);
    const size_t i = reinterpret_cast<size_t>(tag) - 1;
    const auto now = Clock::now();
    if (!load.callers[i].pausing) found.calls++;
    if (measuring && !over && !load.callers[i].pausing) found.Add(load.callers[i], now);
    if (!measuring && Seconds(now - began) >= warm_up) {
      measuring = true;
      measured_from = now;
      found.cpu = -CpuSeconds();
    }
    if (measuring && !over && Seconds(now - measured_from) >= seconds) {
      over = true;
      found.seconds = Seconds(now - measured_from);
      found.cpu += CpuSeconds();
    }
    if (over) {
      running--;
    } else if (load.callers[i].status.ok() || load.callers[i].pausing) {
      load.Call(i);
    } else {
      load.Pause(i);
    }
  }
  return found;
}

int main(int count, char** given) {
  if (count != 7) {
    fprintf(stderr, "usage: loadgen HOST:PORT METHOD REQUEST_FILE CALLERS SECONDS WARM_UP_SECONDS\n");
    return 2;
  }
  std::ifstream file(given[3], std::ios::binary);
  const std::string request((std::istreambuf_iterator<char>(file)), {});
  const int callers = atoi(given[4]);
  grpc::Slice slice(request);
  Load load{given[2], grpc::ByteBuffer(&slice, 1), Connect(given[1], std::min(callers, kConnections)), std::vector<Caller>(callers)};
  Run(load, atof(given[5]), atof(given[6])).Print();
}
