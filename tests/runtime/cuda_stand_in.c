/* A driver without a GPU: the functions of CUDA's driver API that the runtime binds, over the memory of the host.

   It is stricter than a GPU where that shows mistakes. Work that is queued runs when somebody waits for it, and not
   before. An address of the GPU is an address of the host, but a copy must stay within one allocation. Memory is never
   zero, neither new nor given back. What is illegal in a capture fails and spoils it. A failure of queued work is told
   by every later call.

   The functions standin_... are for tests: they set the scene, make calls fail on cue, and count what is still held. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201, INVALID_HANDLE = 400, ILLEGAL_STATE = 401, NOT_READY = 600, ILLEGAL_ADDRESS = 700,
    CONTEXT_IS_DESTROYED = 709, LAUNCH_FAILED = 719, NOT_PERMITTED = 800, CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901, CAPTURED_EVENT = 907, CAPTURE_WRONG_THREAD = 908
};

static const struct { int status; const char *name, *text; } SAYINGS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capture"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
};
#define COUNT(array) (sizeof(array) / sizeof *(array))

enum { MAX_DEVICES = 4, MAX_CUES = 8, ALIGNMENT = 256 };
enum { NEW_BYTE = 0xFF, FREED_BYTE = 0xDD }; /* as float32, NaN and about -2e18 */
static const size_t GRAVEYARD_BYTES = 64 << 20;

typedef void (*Call)(void *);
enum Act { COPY, CALL, MARK };
enum Kind { MEMORY, PINNED, STREAM, EVENT, GRAPH, EXEC, KINDS };
static const char *const KIND_NAMES[] = {"memory", "pinned", "stream", "event", "graph", "exec"};
enum Capture { NONE, ACTIVE, INVALIDATED };
enum Mode { GLOBAL, THREAD_LOCAL, RELAXED };

struct context { int retained, lost; size_t total; };

struct op { enum Act act; size_t to, from, nbytes, event; int to_gpu, from_gpu; Call call; void *data; };

struct ops { struct op *items; size_t count; };

struct object {
    enum Kind kind;
    size_t handle; /* the address, where it is memory; never used twice, where it is not */
    struct context *context;
    struct object *next;
    size_t nbytes;               /* memory, pinned */
    struct ops ops;              /* stream: queued; graph, exec: recorded */
    struct ops recorded;         /* stream */
    enum Capture capture;        /* stream */
    enum Mode mode;              /* stream */
    pthread_t owner;             /* stream: the thread that captures */
    size_t stream;               /* event: where it was queued last */
    int ever, pending, captured; /* event */
    double time_ms;              /* event */
};

static pthread_mutex_t lock;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct context contexts[MAX_DEVICES];
static int device_count = 2, initialised;
static struct object *objects, *graveyard;
static size_t next_handle = 4096;
static struct { char function[64]; int nth, status; } cues[MAX_CUES];
static _Thread_local struct context *current;
static _Thread_local int in_callback;

/* What is held. */

static struct object *find(enum Kind kind, size_t handle) {
    struct object *object = objects;
    while (object && (object->kind != kind || object->handle != handle)) object = object->next;
    return object;
}

static struct object *make(enum Kind kind, size_t handle) {
    struct object *object = calloc(1, sizeof *object);
    object->kind = kind;
    object->context = current;
    object->handle = handle ? handle : (next_handle += 16);
    object->next = objects;
    return objects = object;
}

/* Memory that is given back stays a while: to read it is a mistake that shows, and not the end of the process. */
static void bury(struct object *object) {
    size_t kept = 0;
    memset((void *)object->handle, FREED_BYTE, object->nbytes);
    object->next = graveyard;
    graveyard = object;
    for (struct object **link = &graveyard; *link;) {
        struct object *grave = *link;
        if (grave == object || (kept += grave->nbytes) <= GRAVEYARD_BYTES) { link = &grave->next; continue; }
        *link = grave->next;
        free((void *)grave->handle);
        free(grave);
    }
}

static void drop(struct object *object) {
    struct object **link = &objects;
    while (*link != object) link = &(*link)->next;
    *link = object->next;
    free(object->ops.items);
    free(object->recorded.items);
    if (object->kind == MEMORY || object->kind == PINNED) bury(object);
    else free(object);
}

static size_t used(enum Kind kind, const struct context *context) {
    size_t sum = 0;
    for (struct object *object = objects; object; object = object->next)
        if (object->kind == kind && object->context == context) sum += object->nbytes;
    return sum;
}

static struct object *allocate(enum Kind kind, size_t nbytes) {
    size_t room = (nbytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *memory = room < nbytes ? NULL : aligned_alloc(ALIGNMENT, room);
    if (!memory) return NULL;
    memset(memory, NEW_BYTE, room);
    struct object *object = make(kind, (size_t)memory);
    object->nbytes = nbytes;
    return object;
}

/* Whether [address, address + nbytes) is within one allocation of the GPU. */
static int on_gpu(size_t address, size_t nbytes) {
    for (struct object *object = objects; object; object = object->next)
        if (object->kind == MEMORY && address >= object->handle && nbytes <= object->nbytes &&
            address - object->handle <= object->nbytes - nbytes) return 1;
    return 0;
}

static int touches_gpu(size_t address, size_t nbytes) {
    for (struct object *object = objects; object; object = object->next)
        if (object->kind == MEMORY && address < object->handle + object->nbytes && object->handle < address + nbytes)
            return 1;
    return 0;
}

/* Every function begins with enter and ends with leave. */

enum Needs { NOTHING, CONTEXT, CONTEXT_EVEN_LOST };

static int on_cue(const char *function) {
    for (size_t i = 0; i < COUNT(cues); i++)
        if (cues[i].nth && !strcmp(cues[i].function, function) && --cues[i].nth == 0) return cues[i].status;
    return SUCCESS;
}

static void make_lock(void) {
    pthread_mutexattr_t recursive; /* a callback may give memory back */
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&lock, &recursive);
}

static int enter(const char *function, enum Needs needs) {
    int status;
    pthread_once(&once, make_lock);
    pthread_mutex_lock(&lock);
    /* A callback must not call the driver; what a garbage collector does within one in Python is not its choice. */
    if (in_callback && strcmp(function, "cuMemFree_v2")) return NOT_PERMITTED;
    if ((status = on_cue(function))) return status;
    if (!initialised && strcmp(function, "cuInit")) return NOT_INITIALIZED;
    if (needs == NOTHING) return SUCCESS;
    if (!current) return INVALID_CONTEXT;
    if (!current->retained) return CONTEXT_IS_DESTROYED;
    return needs == CONTEXT ? current->lost : SUCCESS;
}

static int leave(int status) {
    pthread_mutex_unlock(&lock);
    return status;
}

#define ENTER(needs) do { int told = enter(__func__, needs); if (told) return leave(told); } while (0)
#define UNLESS(condition, status) do { if (!(condition)) return leave(status); } while (0)

/* What may end up waiting for the GPU must not be called where a capture sees it. */
static int unsafe(void) {
    int status = SUCCESS;
    for (struct object *stream = objects; stream; stream = stream->next) {
        if (stream->kind != STREAM || stream->capture == NONE || stream->mode == RELAXED) continue;
        if (stream->mode == THREAD_LOCAL && !pthread_equal(stream->owner, pthread_self())) continue;
        stream->capture = INVALIDATED;
        status = CAPTURE_UNSUPPORTED;
    }
    return status;
}

/* Queues. */

static void append(struct ops *ops, struct op op) {
    ops->items = realloc(ops->items, (ops->count + 1) * sizeof op);
    ops->items[ops->count++] = op;
}

static int queue(size_t handle, struct op op) {
    struct object *stream = find(STREAM, handle), *event;
    if (!stream) return INVALID_HANDLE;
    if (stream->capture == INVALIDATED) return CAPTURE_INVALIDATED;
    if (stream->capture == NONE && op.act == MARK && (event = find(EVENT, op.event))) {
        event->ever = 1;
        event->pending++;
        event->captured = 0;
        event->stream = handle;
    }
    append(stream->capture == ACTIVE ? &stream->recorded : &stream->ops, op);
    return SUCCESS;
}

static int perform(struct op op) {
    struct object *event;
    struct timespec now;
    int status = on_cue("work");
    if (status) return status;
    switch (op.act) {
    case COPY:
        if (op.to_gpu && !on_gpu(op.to, op.nbytes)) return ILLEGAL_ADDRESS;
        if (op.from_gpu && !on_gpu(op.from, op.nbytes)) return ILLEGAL_ADDRESS;
        memcpy((void *)op.to, (void *)op.from, op.nbytes);
        break;
    case CALL:
        in_callback++;
        op.call(op.data);
        in_callback--;
        break;
    case MARK:
        if (!(event = find(EVENT, op.event))) break;
        clock_gettime(CLOCK_MONOTONIC, &now);
        event->time_ms = now.tv_sec * 1e3 + now.tv_nsec / 1e6;
        event->pending--;
    }
    return SUCCESS;
}

/* Runs what is queued, up to an event or to the end. */
static int run(struct object *stream, struct object *until) {
    while (stream->ops.count && !(until && !until->pending)) {
        struct op op = stream->ops.items[0];
        memmove(stream->ops.items, stream->ops.items + 1, --stream->ops.count * sizeof op);
        int status = perform(op);
        if (status) return stream->context->lost = status;
    }
    return SUCCESS;
}

/* The driver: errors, devices and contexts. */

int cuGetErrorName(int status, const char **name) {
    *name = NULL;
    for (size_t i = 0; i < COUNT(SAYINGS); i++) if (SAYINGS[i].status == status) *name = SAYINGS[i].name;
    return *name ? SUCCESS : INVALID_VALUE;
}

int cuGetErrorString(int status, const char **text) {
    *text = NULL;
    for (size_t i = 0; i < COUNT(SAYINGS); i++) if (SAYINGS[i].status == status) *text = SAYINGS[i].text;
    return *text ? SUCCESS : INVALID_VALUE;
}

/* For processes that a test starts and cannot reach: how many GPUs they see. */
__attribute__((constructor)) static void from_environment(void) {
    const char *devices = getenv("STANDIN_DEVICES");
    if (devices) device_count = atoi(devices);
}

int cuInit(unsigned flags) {
    ENTER(NOTHING);
    UNLESS(flags == 0, INVALID_VALUE);
    UNLESS(device_count, NO_DEVICE);
    initialised = 1;
    return leave(SUCCESS);
}

int cuDriverGetVersion(int *version) {
    ENTER(NOTHING);
    *version = 12040;
    return leave(SUCCESS);
}

int cuDeviceGetCount(int *count) {
    ENTER(NOTHING);
    *count = device_count;
    return leave(SUCCESS);
}

int cuDeviceGet(int *device, int ordinal) {
    ENTER(NOTHING);
    UNLESS(ordinal >= 0 && ordinal < device_count, INVALID_DEVICE);
    *device = ordinal;
    return leave(SUCCESS);
}

int cuDeviceGetName(char *name, int length, int device) {
    ENTER(NOTHING);
    UNLESS(device >= 0 && device < device_count, INVALID_DEVICE);
    strncpy(name, "Stand-in", length);
    return leave(SUCCESS);
}

int cuDevicePrimaryCtxRetain(size_t *context, int device) {
    ENTER(NOTHING);
    UNLESS(device >= 0 && device < device_count, INVALID_DEVICE);
    UNLESS(!contexts[device].lost, contexts[device].lost);
    contexts[device].retained++;
    *context = (size_t)&contexts[device];
    return leave(SUCCESS);
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER(NOTHING);
    UNLESS(device >= 0 && device < device_count, INVALID_DEVICE);
    UNLESS(contexts[device].retained, INVALID_CONTEXT);
    contexts[device].retained--;
    /* Nothing can be given back to a context that is lost: it all goes at once. */
    if (contexts[device].lost && !contexts[device].retained)
        for (struct object *object = objects, *next; object; object = next) {
            next = object->next;
            if (object->context == &contexts[device]) drop(object);
        }
    return leave(SUCCESS);
}

int cuCtxSetCurrent(size_t context) {
    ENTER(NOTHING);
    for (int i = 0; i < device_count; i++)
        if (context == (size_t)&contexts[i] && !contexts[i].retained) return leave(CONTEXT_IS_DESTROYED);
    current = (struct context *)context;
    return leave(SUCCESS);
}

/* Memory. */

int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    ENTER(CONTEXT);
    *total = current->total;
    *free_bytes = current->total - used(MEMORY, current);
    return leave(SUCCESS);
}

int cuMemAlloc_v2(size_t *address, size_t nbytes) {
    struct object *made;
    ENTER(CONTEXT);
    int status = unsafe();
    UNLESS(!status, status);
    UNLESS(nbytes, INVALID_VALUE);
    UNLESS(nbytes <= current->total - used(MEMORY, current) && (made = allocate(MEMORY, nbytes)), OUT_OF_MEMORY);
    *address = made->handle;
    return leave(SUCCESS);
}

int cuMemHostAlloc(size_t *address, size_t nbytes, unsigned flags) {
    struct object *made;
    ENTER(CONTEXT);
    int status = unsafe();
    UNLESS(!status, status);
    UNLESS(nbytes && flags <= 7, INVALID_VALUE);
    UNLESS(nbytes <= current->total - used(PINNED, current) && (made = allocate(PINNED, nbytes)), OUT_OF_MEMORY);
    *address = made->handle;
    return leave(SUCCESS);
}

static int give_back(enum Kind kind, size_t address) {
    struct object *object = find(kind, address);
    int status = unsafe();
    if (!status && !object) status = INVALID_VALUE;
    if (!status) drop(object);
    return leave(status);
}

int cuMemFree_v2(size_t address) {
    ENTER(CONTEXT);
    return give_back(MEMORY, address);
}

int cuMemFreeHost(size_t address) {
    ENTER(CONTEXT);
    return give_back(PINNED, address);
}

static int may_copy(size_t address, size_t nbytes, int gpu) {
    return gpu ? on_gpu(address, nbytes) : address && !touches_gpu(address, nbytes);
}

static int queue_copy(size_t stream, struct op op) {
    op.act = COPY;
    UNLESS(may_copy(op.to, op.nbytes, op.to_gpu) && may_copy(op.from, op.nbytes, op.from_gpu), INVALID_VALUE);
    return leave(queue(stream, op));
}

int cuMemcpyHtoDAsync_v2(size_t to, size_t from, size_t nbytes, size_t stream) {
    ENTER(CONTEXT);
    return queue_copy(stream, (struct op){.to = to, .from = from, .nbytes = nbytes, .to_gpu = 1});
}

int cuMemcpyDtoHAsync_v2(size_t to, size_t from, size_t nbytes, size_t stream) {
    ENTER(CONTEXT);
    return queue_copy(stream, (struct op){.to = to, .from = from, .nbytes = nbytes, .from_gpu = 1});
}

int cuMemcpyDtoDAsync_v2(size_t to, size_t from, size_t nbytes, size_t stream) {
    ENTER(CONTEXT);
    UNLESS(to >= from + nbytes || from >= to + nbytes, INVALID_VALUE); /* undefined on a GPU */
    return queue_copy(stream, (struct op){.to = to, .from = from, .nbytes = nbytes, .to_gpu = 1, .from_gpu = 1});
}

/* Streams. The default stream, 0, is refused: nothing may depend on it. */

int cuStreamCreate(size_t *handle, unsigned flags) {
    ENTER(CONTEXT);
    UNLESS(flags <= 1, INVALID_VALUE);
    *handle = make(STREAM, 0)->handle;
    return leave(SUCCESS);
}

int cuStreamDestroy_v2(size_t handle) {
    ENTER(CONTEXT);
    struct object *stream = find(STREAM, handle);
    UNLESS(stream, INVALID_HANDLE);
    int status = run(stream, NULL);
    drop(stream);
    return leave(status);
}

int cuStreamSynchronize(size_t handle) {
    ENTER(CONTEXT);
    struct object *stream = find(STREAM, handle);
    UNLESS(stream, INVALID_HANDLE);
    if (stream->capture != NONE) {
        stream->capture = INVALIDATED;
        return leave(CAPTURE_UNSUPPORTED);
    }
    return leave(run(stream, NULL));
}

int cuLaunchHostFunc(size_t stream, Call call, void *data) {
    ENTER(CONTEXT);
    UNLESS(call, INVALID_VALUE);
    return leave(queue(stream, (struct op){.act = CALL, .call = call, .data = data}));
}

int cuStreamBeginCapture_v2(size_t handle, int mode) {
    ENTER(CONTEXT);
    struct object *stream = find(STREAM, handle);
    UNLESS(stream, INVALID_HANDLE);
    UNLESS(mode >= GLOBAL && mode <= RELAXED, INVALID_VALUE);
    UNLESS(stream->capture == NONE, ILLEGAL_STATE);
    stream->capture = ACTIVE;
    stream->mode = mode;
    stream->owner = pthread_self();
    stream->recorded.count = 0;
    return leave(SUCCESS);
}

int cuStreamEndCapture(size_t handle, size_t *graph) {
    ENTER(CONTEXT);
    struct object *stream = find(STREAM, handle);
    *graph = 0;
    UNLESS(stream, INVALID_HANDLE);
    UNLESS(stream->capture != NONE, ILLEGAL_STATE);
    UNLESS(stream->mode == RELAXED || pthread_equal(stream->owner, pthread_self()), CAPTURE_WRONG_THREAD);
    int valid = stream->capture == ACTIVE;
    stream->capture = NONE;
    UNLESS(valid, CAPTURE_INVALIDATED);
    struct object *made = make(GRAPH, 0);
    made->ops = stream->recorded;
    stream->recorded = (struct ops){0};
    *graph = made->handle;
    return leave(SUCCESS);
}

/* Graphs. */

int cuGraphInstantiateWithFlags(size_t *exec, size_t handle, unsigned long long flags) {
    ENTER(CONTEXT);
    struct object *graph = find(GRAPH, handle);
    UNLESS(graph && flags == 0, INVALID_VALUE);
    struct object *made = make(EXEC, 0);
    for (size_t i = 0; i < graph->ops.count; i++) append(&made->ops, graph->ops.items[i]);
    *exec = made->handle;
    return leave(SUCCESS);
}

int cuGraphLaunch(size_t handle, size_t stream_handle) {
    ENTER(CONTEXT);
    struct object *exec = find(EXEC, handle), *stream = find(STREAM, stream_handle);
    UNLESS(exec, INVALID_VALUE);
    UNLESS(stream, INVALID_HANDLE);
    if (stream->capture != NONE) {
        stream->capture = INVALIDATED;
        return leave(CAPTURE_UNSUPPORTED);
    }
    for (size_t i = 0; i < exec->ops.count; i++) queue(stream_handle, exec->ops.items[i]);
    return leave(SUCCESS);
}

static int destroy(enum Kind kind, size_t handle, int otherwise) {
    struct object *object = find(kind, handle);
    if (object) drop(object);
    return leave(object ? SUCCESS : otherwise);
}

int cuGraphDestroy(size_t graph) {
    ENTER(CONTEXT);
    return destroy(GRAPH, graph, INVALID_VALUE);
}

int cuGraphExecDestroy(size_t exec) {
    ENTER(CONTEXT);
    return destroy(EXEC, exec, INVALID_VALUE);
}

/* Events. */

int cuEventCreate(size_t *handle, unsigned flags) {
    ENTER(CONTEXT);
    UNLESS(flags == 0, INVALID_VALUE); /* others cannot be timed, or block */
    *handle = make(EVENT, 0)->handle;
    return leave(SUCCESS);
}

int cuEventDestroy_v2(size_t event) {
    ENTER(CONTEXT);
    return destroy(EVENT, event, INVALID_HANDLE);
}

int cuEventRecordWithFlags(size_t handle, size_t stream_handle, unsigned flags) {
    ENTER(CONTEXT);
    struct object *event = find(EVENT, handle), *stream = find(STREAM, stream_handle);
    UNLESS(event && stream, INVALID_HANDLE);
    int external = flags == 1, capturing = stream->capture != NONE;
    UNLESS(flags <= 1 && (!external || capturing), INVALID_VALUE);
    if (capturing && !external) { /* it stands for work of the graph, and never gets a time */
        event->captured = 1;
        return leave(SUCCESS);
    }
    return leave(queue(stream_handle, (struct op){.act = MARK, .event = handle}));
}

int cuEventSynchronize(size_t handle) {
    ENTER(CONTEXT);
    struct object *event = find(EVENT, handle), *stream;
    UNLESS(event, INVALID_HANDLE);
    UNLESS(!event->captured, CAPTURED_EVENT);
    stream = find(STREAM, event->stream);
    return leave(stream ? run(stream, event) : SUCCESS);
}

int cuEventElapsedTime(float *elapsed_ms, size_t start, size_t end) {
    ENTER(CONTEXT);
    struct object *from = find(EVENT, start), *to = find(EVENT, end);
    UNLESS(from && to, INVALID_HANDLE);
    UNLESS(!from->captured && !to->captured, CAPTURED_EVENT);
    UNLESS(from->ever && to->ever, INVALID_HANDLE);
    UNLESS(!from->pending && !to->pending, NOT_READY);
    *elapsed_ms = (float)(to->time_ms - from->time_ms);
    return leave(SUCCESS);
}

/* For tests. */

/* A fresh driver: everything that was held is gone, and no cue is left. */
void standin_reset(int devices, size_t memory_bytes) {
    pthread_once(&once, make_lock);
    pthread_mutex_lock(&lock);
    while (objects) drop(objects);
    memset(contexts, 0, sizeof contexts);
    memset(cues, 0, sizeof cues);
    for (int i = 0; i < MAX_DEVICES; i++) contexts[i].total = memory_bytes;
    device_count = devices;
    initialised = 0;
    current = NULL;
    pthread_mutex_unlock(&lock);
}

/* The nth call from now of a function fails; the nth piece of queued work that runs, if the function is "work". */
int standin_fail(const char *function, int nth, int status) {
    for (size_t i = 0; i < COUNT(cues); i++) {
        if (cues[i].nth) continue;
        strncpy(cues[i].function, function, sizeof cues[i].function - 1);
        cues[i].nth = nth;
        cues[i].status = status;
        return 1;
    }
    return 0;
}

/* How many of a kind are held: memory, pinned, stream, event, graph, exec, context; "queued" pieces of work. */
int standin_live(const char *kind) {
    int live = 0;
    if (!strcmp(kind, "context"))
        for (int i = 0; i < MAX_DEVICES; i++) live += contexts[i].retained;
    for (struct object *object = objects; object; object = object->next) {
        if (!strcmp(kind, KIND_NAMES[object->kind])) live++;
        if (object->kind == STREAM && !strcmp(kind, "queued")) live += (int)object->ops.count;
    }
    return live;
}
