#include "settings.h"

#include <charconv>
#include <limits>
#include <set>
#include <string_view>

namespace ioe_rocksdb {
namespace {

constexpr std::string_view scheme = "ioe://";

struct Number {
    std::string_view name;
    std::uint32_t *value;
    std::uint32_t least, most;
};

std::string Quoted(std::string_view text)
{
    return "'" + std::string(text) + "'";
}

/* The next part up to `separator`, which is taken away with it. */
std::string_view Next(std::string_view *text, char separator)
{
    const std::size_t end = text->find(separator);
    const std::string_view part = text->substr(0, end);
    *text = end == std::string_view::npos ? std::string_view() : text->substr(end + 1);
    return part;
}

std::string SetDriver(std::string_view name, ioe::config *config)
{
    for (const int driver : {IOE_DRIVER_AUTO, IOE_DRIVER_URING, IOE_DRIVER_AIO, IOE_DRIVER_POOL}) {
        if (name == ioe_driver_name(driver)) {
            config->driver = driver;
            return "";
        }
    }
    return "driver is " + Quoted(name) + ", and may be auto, uring, aio or pool";
}

std::string SetNumber(std::string_view text, const Number &number)
{
    std::uint32_t value = 0;
    const char *end = text.data() + text.size();
    const auto [stopped, error] = std::from_chars(text.data(), end, value);
    if (text.empty() || stopped != end || error != std::errc() || value < number.least || value > number.most)
        return std::string(number.name) + " is " + Quoted(text) + ", and may be a number from " +
               std::to_string(number.least) + " to " + std::to_string(number.most);
    *number.value = value;
    return "";
}

} // namespace

std::string Parse(const std::string &uri, Settings *settings)
{
    std::string_view rest = uri;
    if (rest.substr(0, scheme.size()) != scheme)
        return "it does not begin with ioe://";
    rest.remove_prefix(scheme.size());
    if (!rest.empty() && rest.front() != '?')
        return "behind ioe:// comes '?' and the options, not " + Quoted(rest);

    constexpr std::uint32_t any = std::numeric_limits<std::uint32_t>::max();
    std::uint32_t direct = 0, stats = 0;
    const Number numbers[] = {
        {"depth", &settings->config.depth, 1, 32768},
        {"queue_size", &settings->config.queue_size, 1, 1 << 20},
        {"workers", &settings->config.workers, 0, 256},
        {"reactors", &settings->config.reactors, 1, 64},
        {"merge_limit", &settings->config.merge_limit, 0, any},
        {"direct", &direct, 0, 1},
        {"stats", &stats, 0, 1},
    };
    std::set<std::string_view> seen;
    if (!rest.empty())
        rest.remove_prefix(1);
    while (!rest.empty()) {
        std::string_view value = Next(&rest, '&');
        const bool has_value = value.find('=') != std::string_view::npos;
        const std::string_view name = Next(&value, '=');
        if (!has_value)
            return Quoted(name) + " is no option: those are name=value, with '&' between them";
        if (!seen.insert(name).second)
            return std::string(name) + " is there twice";
        std::string wrong = "there is no option " + Quoted(name) + ": there are driver";
        if (name == "driver")
            wrong = SetDriver(value, &settings->config);
        else
            for (const Number &number : numbers) {
                if (name == number.name) {
                    wrong = SetNumber(value, number);
                    break;
                }
                wrong += ", " + std::string(number.name);
            }
        if (!wrong.empty())
            return wrong;
    }
    settings->direct = direct != 0;
    settings->stats = stats != 0;
    return "";
}

} // namespace ioe_rocksdb
