/* Loads the library, has a thread use it, and closes it: it stays, because threads of its own may end later. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static bool is_mapped(void)
{
    char line[4096];
    bool found = false;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL)
        found |= strstr(line, "libio_engine.so") != NULL;
    if (maps != NULL)
        fclose(maps);
    return found;
}

static void *use(void *library)
{
    int (*new_context)(const void *, void **);
    int (*free_context)(void *);
    void *ctx = NULL;
    *(void **)&new_context = dlsym(library, "ioe_context_new");
    *(void **)&free_context = dlsym(library, "ioe_context_free");
    return new_context(NULL, &ctx) == 0 && free_context(ctx) == 0 ? library : NULL;
}

int main(void)
{
    pthread_t thread;
    void *library = dlopen("libio_engine.so.1", RTLD_NOW), *worked = NULL;
    if (library == NULL)
        return fprintf(stderr, "%s\n", dlerror()), 1;
    /* What a thread keeps for itself would hold the library as well: it is gone with the thread. */
    if (pthread_create(&thread, NULL, use, library) != 0 || pthread_join(thread, &worked) != 0)
        return 1;
    return worked != NULL && dlclose(library) == 0 && is_mapped() ? 0 : 1;
}
