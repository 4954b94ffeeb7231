//! Everything that needs a real kernel, in one binary: `cargo test -p kernel-tests`.

mod client;

use libtest_mimic::Arguments;

fn main() {
    let mut arguments = Arguments::from_args();
    // One after the other: kernels up to 7.0 have one table of services for all network namespaces,
    // so that changes in one namespace disturb a long listing in another.
    arguments.test_threads.get_or_insert(1);
    let cases = client::cases();
    libtest_mimic::run(&arguments, cases).exit();
}
