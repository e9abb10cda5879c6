#include "base/mutex.hpp"

#include <thread>

#include "tests/check.hpp"

using namespace engine;

TEST(only_the_thread_that_locked_it_holds_a_mutex) {
    Mutex mutex;
    CHECK(!mutex.held_by_this_thread());
    const MutexLock lock(mutex);
    CHECK(mutex.held_by_this_thread());
    bool held = true;
    std::thread other([&] { held = mutex.held_by_this_thread(); });
    other.join();
    CHECK(!held);
}

TEST(an_unlocked_mutex_has_no_owner) {
    Mutex mutex;
    mutex.lock();
    mutex.unlock();
    CHECK(!mutex.held_by_this_thread());
}

CHECK_MAIN()
