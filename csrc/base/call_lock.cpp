#include "base/call_lock.hpp"

#include <map>
#include <mutex>

namespace engine {

struct CallLockRegistry {
    std::mutex lock;
    std::map<const void*, std::weak_ptr<CallLock>> locks;
};

// Every extension module links its own copy of this code. A local static of an inline function with default visibility
// is one object for the whole process all the same, because g++ marks it unique for the dynamic linker.
[[gnu::visibility("default")]] inline CallLockRegistry& registry() {
    // Never freed: threads that are left behind may outlive static objects.
    static auto* const only = new CallLockRegistry;
    return *only;
}

std::shared_ptr<CallLock> CallLock::of(const void* ctx) {
    CallLockRegistry& all = registry();
    const std::lock_guard<std::mutex> one_at_a_time(all.lock);
    std::weak_ptr<CallLock>& known = all.locks[ctx];
    if (std::shared_ptr<CallLock> lock = known.lock()) return lock;
    auto lock = std::make_shared<CallLock>();
    known = lock;
    // The locks of models that are gone.
    std::erase_if(all.locks, [](const auto& each) { return each.second.expired(); });
    return lock;
}

std::shared_ptr<CallLock> CallLock::share(const void* ctx, const void* other) {
    std::shared_ptr<CallLock> lock = of(other);
    CallLockRegistry& all = registry();
    const std::lock_guard<std::mutex> one_at_a_time(all.lock);
    all.locks[ctx] = lock;
    return lock;
}

void CallLock::forget(const void* ctx) noexcept {
    CallLockRegistry& all = registry();
    const std::lock_guard<std::mutex> one_at_a_time(all.lock);
    all.locks.erase(ctx);
}

}  // namespace engine
