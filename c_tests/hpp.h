/*
 * What the tests of io_engine.hpp share: how many allocations a thread makes, contexts as the
 * deliveries ask for them, and children that end in std::terminate.
 */
#ifndef IOE_C_TESTS_HPP_H
#define IOE_C_TESTS_HPP_H

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "common.h"
#include "io_engine.hpp"

#if !defined(__SANITIZE_ADDRESS__) && defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

/* ---- allocations of a thread, in the library too ---- */

/* Atomic, because compilers know malloc, and that it changes no variable. */
static thread_local std::atomic<unsigned long> allocations{0};

#if defined(__SANITIZE_ADDRESS__)

extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void *, size_t),
                                                         void (*)(const volatile void *));

static void begin_counting()
{
    static const int installed = __sanitizer_install_malloc_and_free_hooks(
        [](const volatile void *, size_t) { ++allocations; }, [](const volatile void *) {});
    assert_true(installed > 0);
}

#else

/* The program's own are the ones that the dynamic linker finds first. */
extern "C" {
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t align, size_t size);

void *malloc(size_t size) noexcept
{
    ++allocations;
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size) noexcept
{
    ++allocations;
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size) noexcept
{
    ++allocations;
    return __libc_realloc(p, size);
}

void *aligned_alloc(size_t align, size_t size) noexcept
{
    ++allocations;
    return __libc_memalign(align, size);
}

int posix_memalign(void **out, size_t align, size_t size) noexcept
{
    *out = aligned_alloc(align, size);
    return *out != nullptr ? 0 : ENOMEM;
}
}

static void begin_counting() {}

#endif

/* How many allocations a function makes on its own thread; that the counter counts is seen first. */
template <class Function>
static unsigned long count_allocations(Function function)
{
    begin_counting();
    unsigned long before = allocations;
    void *volatile one = malloc(1); /* or a compiler leaves it out */
    free(one);
    assert_true(allocations > before);
    before = allocations;
    function();
    return allocations - before;
}

/* ---- contexts ---- */

static inline ioe::config config_for(const delivery *how)
{
    ioe::config cfg;
    cfg.workers = how->workers;
    cfg.flags = how->flags;
    cfg.merge_limit = usual_merge_limit();
    cfg.reactors = usual_reactors(how->flags);
    return cfg;
}

static inline ioe::config polled_config()
{
    ioe::config cfg;
    cfg.flags = IOE_POLLED;
    return cfg;
}

/* A descriptor of a test's file, closed with its scope. */
class file {
  public:
    explicit file(place where = ON_DISK) : fd_(temp_file(where)) {}
    file(const file &) = delete;
    file &operator=(const file &) = delete;
    ~file() { close(fd_); }
    operator int() const { return fd_; }

  private:
    int fd_;
};

/* What a call reports, in the form that throws: the errno, 0 for none. */
template <class Function>
static int thrown(Function function)
{
    try {
        function();
    } catch (const std::system_error &e) {
        return e.code().category() == std::generic_category() ? e.code().value() : -1;
    }
    return 0;
}

/* ---- children that end in std::terminate ---- */

/* Runs the body in a child, which must be ended by SIGABRT; what it said on stderr. */
static inline std::string last_words(int (*body)(void *arg))
{
    struct call {
        int (*body)(void *);
        int fd;
    } its = {body, temp_file(ON_DISK)};
    const int status = in_child(
        [](void *arg) {
            auto *in = static_cast<call *>(arg);
            dup2(in->fd, STDERR_FILENO);
            return in->body(nullptr);
        },
        &its);
    std::string words(4096, '\0');
    const ssize_t n = pread(its.fd, &words[0], words.size(), 0);
    close(its.fd);
    words.resize(n > 0 ? static_cast<size_t>(n) : 0);
    if (status != 128 + SIGABRT)
        printf("# status %d: %s\n", status, words.c_str());
    assert_int_equal(status, 128 + SIGABRT);
    return words;
}

#define ASSERT_SAYS(words, part)                                                                   \
    do {                                                                                           \
        const std::string words_ = (words);                                                        \
        if (words_.find(part) == std::string::npos)                                                \
            printf("# said: %s\n", words_.c_str());                                                \
        assert_true(words_.find(part) != std::string::npos);                                       \
    } while (0)

#endif
