#define _GNU_SOURCE /* dladdr, RTLD_NOLOAD */
#include <Python.h>

#include "python_start.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#define STRING(x) #x
#define TEXT(x) STRING(x)
#define PYTHON "python" TEXT(PY_MAJOR_VERSION) "." TEXT(PY_MINOR_VERSION)
#define PATH_SIZE 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool connected;
static _Atomic pid_t process; /* that has connected */
static char home_in_use[PATH_SIZE]; /* empty: Python was the host's */

static pgrt_status fail(call_error *error, const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(error->text, sizeof error->text, format, values);
    va_end(values);
    return PGRT_E_HOME;
}

static bool exists(const char *home, const char *below) {
    char path[2 * PATH_SIZE];
    struct stat found;
    snprintf(path, sizeof path, "%s/%s", home, below);
    return stat(path, &found) == 0;
}

/* Python cannot be stopped and started again, so what can be wrong is looked for first. */
static pgrt_status check_home(const char *home, call_error *error) {
    if (home == NULL || *home == '\0') {
        return fail(error, "no Python environment: give pgrt_init its folder or set PGRT_HOME");
    }
    if (strlen(home) >= PATH_SIZE) {
        return fail(error, "the path of the Python environment has %zu bytes; %d are the limit",
                    strlen(home), PATH_SIZE - 1);
    }
    if (!exists(home, "bin/python3")) {
        return fail(error,
                    "%s is not a Python environment (no bin/python3); give the folder of the "
                    "virtual environment that pathgene-rt is installed in", home);
    }
    if (!exists(home, "lib/" PYTHON)) {
        return fail(error,
                    "%s is not an environment of " PYTHON ", which this library is built for; run "
                    "its own `pathgene-rt capi build`", home);
    }
    return PGRT_OK;
}

static bool import(const char *name) {
    PyObject *module = PyImport_ImportModule(name);
    Py_XDECREF(module);
    return module != NULL;
}

/* Whatever install_signal_handlers says, the first import of this module takes SIGINT from a host
 * that has no handler for it: its Ctrl-C would do nothing any more. */
static void import_signal(void) {
    struct sigaction host;
    sigaction(SIGINT, NULL, &host);
    if (!import("signal")) {
        PyErr_Clear(); /* who needs it will say so */
    }
    sigaction(SIGINT, &host, NULL);
}

/* Isolated: neither the host's environment variables nor its locale, signals or arguments matter.
 * The path of the executable is how Python finds a virtual environment (pyvenv.cfg beside it). */
static pgrt_status start(const char *home, call_error *error) {
    char executable[PATH_SIZE + 16];
    PyPreConfig before;
    PyConfig config;
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;
    PyStatus status = Py_PreInitialize(&before);
    if (PyStatus_Exception(status)) {
        return fail(error, "Python cannot start: %s", status.err_msg);
    }
    snprintf(executable, sizeof executable, "%s/bin/python3", home);
    PyConfig_InitIsolatedConfig(&config);
    config.write_bytecode = 0; /* nothing is written into an installation */
    status = PyConfig_SetBytesString(&config, &config.executable, executable);
    if (!PyStatus_Exception(status)) {
        status = PyConfig_SetBytesString(&config, &config.program_name, executable);
    }
    if (!PyStatus_Exception(status)) {
        status = Py_InitializeFromConfig(&config);
    }
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status)) {
        return fail(error, "Python cannot start from %s: %s", home,
                    status.err_msg ? status.err_msg : "it asked to exit");
    }
    import_signal();
    PyEval_SaveThread();
    return PGRT_OK;
}

/* A host that loads this library privately (dlopen, .NET) has loaded libpython privately too;
 * extension modules look for its symbols globally. */
static void publish_libpython(void) {
    Dl_info found;
    if (dladdr((void *)(uintptr_t)&Py_IsInitialized, &found) && found.dli_fname != NULL) {
        dlopen(found.dli_fname, RTLD_LAZY | RTLD_GLOBAL | RTLD_NOLOAD);
    }
}

/* The Python exception as one line; the GIL is held. */
static pgrt_status fail_by_exception(call_error *error, const char *python) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    PyObject *text = value ? PyObject_Str(value) : NULL;
    const char *reason = text ? PyUnicode_AsUTF8(text) : NULL;
    fail(error, "%s cannot be used: %s; install pathgene-rt[cpu,capi] in it", python,
         reason ? reason : "unknown reason");
    PyErr_Clear();
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    return PGRT_E_HOME;
}

/* In the host's own Python the package may have to be found first; the GIL is held. */
static bool add_packages(const char *home) {
    char folder[PATH_SIZE + 64];
    snprintf(folder, sizeof folder, "%s/lib/" PYTHON "/site-packages", home);
    PyObject *site = PyImport_ImportModule("site");
    PyObject *result = site ? PyObject_CallMethod(site, "addsitedir", "s", folder) : NULL;
    Py_XDECREF(site);
    Py_XDECREF(result);
    return result != NULL;
}

static pgrt_status import_package(const char *home, bool own, call_error *error) {
    pgrt_status status = PGRT_OK;
    PyGILState_STATE state = PyGILState_Ensure();
    bool found = import("pathgene_rt.capi.calls");
    if (!found && !own && home != NULL && PyErr_ExceptionMatches(PyExc_ModuleNotFoundError)) {
        PyErr_Clear();
        found = add_packages(home) && import("pathgene_rt.capi.calls");
    }
    if (!found || !import("_cffi_backend")) {
        status = fail_by_exception(error, own ? home_in_use : "the Python of this process");
    }
    PyGILState_Release(state);
    return status;
}

static pgrt_status connect(const char *home, call_error *error) {
    bool own = home_in_use[0] != '\0';
    if (!Py_IsInitialized()) {
        pgrt_status status = check_home(home, error);
        if (status != PGRT_OK) {
            return status;
        }
        publish_libpython();
        status = start(home, error);
        if (status != PGRT_OK) {
            return status;
        }
        strcpy(home_in_use, home);
        own = true;
    } else {
        publish_libpython();
    }
    pgrt_status status = import_package(home, own, error);
    if (status == PGRT_OK && call_start(own) != CALL_STARTED) {
        return fail(error, "the calls into Python cannot be set up; see standard error");
    }
    return status;
}

bool python_is_elsewhere(call_error *error) {
    pid_t known = atomic_load(&process);
    if (known == 0 || known == getpid()) {
        return false;
    }
    fail(error, "this process was forked from %d, which uses the library, without its threads; "
         "fork before pgrt_init, or start a new program", (int)known);
    return true;
}

pgrt_status python_start(const char *home, call_error *error) {
    if (python_is_elsewhere(error)) {
        return PGRT_E_ENGINE;
    }
    if (home == NULL && atomic_load(&connected)) {
        return PGRT_OK;
    }
    if (home == NULL) {
        home = getenv("PGRT_HOME");
    }
    pthread_mutex_lock(&lock);
    pgrt_status status = PGRT_OK;
    if (home != NULL && home_in_use[0] != '\0' && strcmp(home, home_in_use) != 0) {
        status = fail(error, "Python runs from %s already; start a new process to use %s",
                      home_in_use, home);
    } else if (!atomic_load(&connected)) {
        status = connect(home, error);
        if (status == PGRT_OK || home_in_use[0] != '\0') {
            atomic_store(&process, getpid());
        }
        atomic_store(&connected, status == PGRT_OK);
    }
    pthread_mutex_unlock(&lock);
    return status;
}
