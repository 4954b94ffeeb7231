//! The shim for processors whose registers old User-Mode Linux kernels do not know. The tests force it:
//! any processor with more registers than AVX's shows its effect.

#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

/// Traces a child process, sets its registers from buffers of several lengths, and prints the
/// results.
const TRACER: &str = r#"
import ctypes, os, signal, struct
PEEKDATA, POKEDATA, GETREGSET, SETREGSET = 2, 5, 0x4204, 0x4205
PRSTATUS, XSTATE = 1, 0x202
BITS, SSE, AVX, BEYOND = 512, 160, 576, 832
c = ctypes.CDLL(None, use_errno=True)
c.ptrace.restype = ctypes.c_long

class Buffer(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

word = ctypes.c_ulong(0x1122334455667788)
child = os.fork()
if child == 0:
    c.ptrace(0, 0, None, None)
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)
os.waitpid(child, 0)

def call(request, kind, area, length):
    buffer = Buffer(ctypes.addressof(area), length)
    result = c.ptrace(request, child, ctypes.c_void_p(kind), ctypes.byref(buffer))
    return (ctypes.get_errno() if result else 0, buffer.length)

def area():
    return (ctypes.c_ubyte * 65536)()

def registers():
    got = area()
    error, length = call(GETREGSET, XSTATE, got, 65536)
    assert error == 0, error
    return got, length

def bits(area):
    return struct.unpack_from("<Q", area, BITS)[0]

def fill(area, start, end, byte):
    for at in range(start, end):
        area[at] = byte

whole, length = registers()
fill(whole, SSE, SSE + 16, 0x11)
fill(whole, AVX, AVX + 16, 0x22)
# AVX-512's masks, which lie beyond: here with AMD, there with Intel.
MASKS = [832, 1088]
for at in MASKS:
    fill(whole, at, at + 8, 0x33)
mask = lambda area: max(area[at] for at in MASKS)
struct.pack_into("<Q", whole, BITS, bits(whole) | 0x26)
print("whole", call(SETREGSET, XSTATE, whole, length)[0])
kept, _ = registers()
print("whole kept", kept[SSE], kept[AVX], mask(kept), bits(kept) & 0x26)

given = area()
ctypes.memmove(given, kept, BEYOND)
fill(given, SSE, SSE + 16, 0x44)
fill(given, AVX, AVX + 16, 0x55)
print("short", call(SETREGSET, XSTATE, given, BEYOND)[0])
now, _ = registers()
print("short kept", now[SSE], now[AVX], mask(now), bits(now) & 0x26)
print("useless", call(SETREGSET, XSTATE, given, 96)[0])

# What is not of these registers passes through.
print("general", call(GETREGSET, PRSTATUS, area(), 65536))
at = ctypes.c_void_p(ctypes.addressof(word))
peek = lambda: hex(c.ptrace(PEEKDATA, child, at, None) & 0xffffffffffffffff)
print("peek", peek())
print("poke", c.ptrace(POKEDATA, child, at, ctypes.c_void_p(0x99)), peek())
ctypes.set_errno(0)
print("nowhere", c.ptrace(PEEKDATA, child, ctypes.c_void_p(8), None), ctypes.get_errno())
os.kill(child, signal.SIGKILL)
"#;

#[test]
fn a_short_buffer_is_laid_over_the_whole_area() {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap();
    if !cpuinfo.split_whitespace().any(|flag| flag == "avx512f") {
        println!("not tested: this processor has no registers beyond AVX's");
        return;
    }
    let Some(without) = trace(None) else { return };
    let with = trace(Some(concat!(env!("OUT_DIR"), "/ptrace.so"))).unwrap();
    // EFAULT is 14, EIO 5. The shim passes all other requests through.
    let passed =
        "useless 14\ngeneral (0, 216)\npeek 0x1122334455667788\npoke 0 0x99\nnowhere -1 5\n";
    let start = "whole 0\nwhole kept 17 34 51 38\n";
    assert_eq!(without, format!("{start}short 14\nshort kept 17 34 51 38\n{passed}"));
    // AVX-512's masks are initial again.
    assert_eq!(with, format!("{start}short 0\nshort kept 68 85 0 6\n{passed}"));
}

#[test]
fn old_kernels_run_with_it() {
    // Processes that take turns while they have numbers in their registers.
    let script = "uname -r; sum() { awk 'BEGIN { for (i = 1; i < 200000; i++) s += 1 / i; \
                  printf \"%.12f\\n\", s }'; }; for n in 1 2 3 4; do sum & done; wait";
    for (kernel, release) in [("uml-5.10", "5.10."), ("uml-6.1", "6.1."), ("uml-6.12", "6.12.")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lvs-guest"));
        command.args(["--place", "guest", "--kernel", kernel, "--", "sh", "-c", script]);
        command.env("LVS_GUEST_SHIM", "1").env_remove("LVS_GUEST_UML").stdin(Stdio::null());
        let output = command.output().unwrap();
        let said = said(&output);
        let mut lines = said.lines();
        assert!(lines.next().unwrap().starts_with(release), "{output:?}");
        let lines: Vec<_> = lines.collect();
        // The harmonic series' first 199,999 terms.
        assert_eq!(lines, ["12.783285810430"; 4], "{kernel}: {output:?}");
    }
}

/// The tracer's output, with a library preloaded; `None` if there is no Python.
fn trace(preload: Option<&str>) -> Option<String> {
    let mut command = Command::new("/usr/bin/python3");
    if !Path::new("/usr/bin/python3").exists() {
        assert!(!lvs_guest::is_required(), "there is no python3 here");
        println!("not tested: there is no python3 on this machine");
        return None;
    }
    command.args(["-c", TRACER]).envs(preload.map(|path| ("LD_PRELOAD", path)));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(said(&output))
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}
