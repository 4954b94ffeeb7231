//! Preloaded into User-Mode Linux before 6.13 on a processor whose registers it does not know.
//!
//! Such a kernel sets its processes' registers by `PTRACE_SETREGSET` of `NT_X86_XSTATE` from a buffer of
//! 2,696 bytes. The machine's kernel takes a whole XSAVE area and nothing less, and with AMX that has 11,008
//! bytes: the answer is EFAULT and the guest panics at boot. Here the caller's bytes are laid over the
//! whole area, and registers beyond them go back to their initial state. All other requests pass through.
//!
//! This is not part of the crate, which has no unsafe code: `build.rs` compiles it, and the program carries it
//! as bytes. It uses neither std nor a versioned symbol of a C library, so it loads beside any C library.

#![no_std]

use core::{
    arch::{asm, x86_64::__cpuid_count},
    ptr,
};

const PEEK_REQUESTS: core::ops::RangeInclusive<u64> = 1..=3;
const GETREGSET: u64 = 0x4204;
const SETREGSET: u64 = 0x4205;
const NT_X86_XSTATE: u64 = 0x202;
const SYS_PTRACE: i64 = 101;

/// `struct iovec`.
#[repr(C)]
struct Buffer {
    base: *mut u8,
    length: usize,
}

/// In bytes: areas are some 11 KB.
const LARGEST: usize = 1 << 16;
/// Offset of XSTATE_BV, the bits of the registers that are not in their initial state.
const STATES: usize = 512;
/// The x87 and SSE registers' bits: the others have their place in CPUID.
const LEGACY: u64 = 3;
const CPUID_XSTATE: u32 = 0xd;

/// User-Mode Linux calls ptrace in one thread.
static mut AREA: [u64; LARGEST / 8] = [0; LARGEST / 8];
/// The bits of registers that lie within a length, and that length. Kept, since CPUID is slow in a virtual
/// machine.
static mut WITHIN: (usize, u64) = (0, 0);

unsafe extern "C" {
    fn __errno_location() -> *mut i32;
}

/// The C library's `ptrace`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptrace(request: u64, process: i64, address: u64, data: *mut u8) -> i64 {
    // The caller's argument is 32 bits wide.
    let request = request & 0xffff_ffff;
    let result = unsafe {
        if PEEK_REQUESTS.contains(&request) {
            let mut word = 0i64;
            match system_call(request, process, address, (&raw mut word).cast()) {
                0 => return word,
                error => error,
            }
        } else if request == SETREGSET && address == NT_X86_XSTATE && !data.is_null() {
            set_registers(process, data.cast())
        } else {
            system_call(request, process, address, data)
        }
    };
    if result < 0 {
        unsafe { *__errno_location() = -result as i32 };
        return -1;
    }
    result
}

unsafe fn set_registers(process: i64, given: *mut Buffer) -> i64 {
    unsafe {
        let area: *mut u8 = (&raw mut AREA).cast();
        let mut whole = Buffer { base: area, length: LARGEST };
        let got = system_call(GETREGSET, process, NT_X86_XSTATE, (&raw mut whole).cast());
        let length = (*given).length;
        if got != 0 || whole.length <= length || length < STATES + 8 {
            return system_call(SETREGSET, process, NT_X86_XSTATE, given.cast());
        }
        ptr::copy_nonoverlapping((*given).base, area, length);
        *area.add(STATES).cast::<u64>() &= within(length);
        system_call(SETREGSET, process, NT_X86_XSTATE, (&raw mut whole).cast())
    }
}

/// The bits of the registers whose places lie within a length.
unsafe fn within(length: usize) -> u64 {
    unsafe {
        if WITHIN.0 != length {
            let beyond = (2..63).filter(|&bit| {
                let place = __cpuid_count(CPUID_XSTATE, bit);
                place.ebx as usize + place.eax as usize > length
            });
            WITHIN = (length, beyond.fold(u64::MAX >> 1, |bits, bit| bits & !(1 << bit)) | LEGACY);
        }
        WITHIN.1
    }
}

unsafe fn system_call(request: u64, process: i64, address: u64, data: *mut u8) -> i64 {
    let mut result = SYS_PTRACE;
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") result,
            in("rdi") request,
            in("rsi") process,
            in("rdx") address,
            in("r10") data,
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
