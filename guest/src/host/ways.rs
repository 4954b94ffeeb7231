//! What a user can do where no guest starts.

use std::path::PathBuf;

use nix::unistd::Uid;

use crate::{
    architecture::Architecture,
    cause::Cause,
    error::Error,
    host::{cache, engine::Engine, kernel, shim},
    modules::Modules,
    options::{Kernel, Options},
};

/// What decides on a machine which ways out there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Here {
    is_root: bool,
    has_apt: bool,
    can_fetch: bool,
    has_qemu: bool,
    /// This machine's kind of processor, if guests run there.
    architecture: Option<&'static Architecture>,
    /// The running kernel's modules have IPVS.
    has_ipvs: bool,
    /// Kernels that need not be fetched, and their releases.
    kept: Vec<(Kernel, Vec<String>)>,
    cache: Option<PathBuf>,
}

impl Here {
    pub(super) fn look(options: &Options) -> Self {
        let release = crate::release().unwrap_or_default();
        let modules = Modules::new(format!("/lib/modules/{release}"));
        let kept = |kernel: Kernel| {
            let uml = kernel::uml_here(options, kernel)?;
            let releases = uml.releases();
            Engine::Uml(uml).check(&options.modules).ok()?;
            Some((kernel, releases))
        };
        let uml = Kernel::ALL.into_iter().filter(|kernel| !kernel.is_qemu());
        Self {
            is_root: Uid::effective().is_root(),
            has_apt: kernel::has_apt(),
            can_fetch: kernel::can_fetch(options),
            has_qemu: kernel::has_qemu(),
            architecture: Architecture::here(),
            has_ipvs: modules.files("ip_vs").is_ok(),
            kept: uml.filter_map(kept).collect(),
            cache: cache::directory(options).ok(),
        }
    }
}

/// Whether what ended a kernel that was tried would end one of these releases, too.
pub(super) fn meets_the_same(tried: &[(Kernel, Error)], releases: &[String]) -> bool {
    let mended = |error: &Error| match error {
        Error::Crash { cause, .. } => cause.and_then(Cause::mended),
        _ => None,
    };
    tried.iter().filter_map(|(_, error)| mended(error)).any(|first| {
        releases.iter().any(|release| shim::version(release).is_some_and(|version| version < first))
    })
}

/// What helps on a machine, the surest first.
pub(super) fn of(here: &Here, tried: &[(Kernel, Error)], memory: u32) -> Vec<String> {
    let was_tried = |kernel: Kernel| tried.iter().any(|(tried, _)| *tried == kernel);
    let failed = |is: fn(&Error) -> bool| tried.iter().any(|(_, error)| is(error));
    let has_uml = here.architecture.is_some_and(|architecture| architecture.has_uml);
    let cannot_fetch = failed(|error| {
        error.kind() == crate::ErrorKind::NoKernel && !matches!(error, Error::NoProgram { .. })
    });
    let cause = tried.iter().find_map(|(_, error)| match error {
        Error::Crash { cause, .. } => *cause,
        _ => None,
    });
    let is_unfit = failed(|error| matches!(error, Error::Unfit { .. }));
    let is_the_machines = cause.is_some_and(Cause::is_the_machines);
    let mut ways = Vec::new();
    let mut add = |way: String| ways.push(way);
    // Where no User-Mode Linux is, what takes neither QEMU nor its time comes first.
    if !has_uml {
        add(own_kernel(here));
    }
    if let (true, Some(cause)) = (is_the_machines, cause) {
        cause.ways(memory).into_iter().for_each(&mut add);
    } else {
        let release_of = |kernel| here.kept.iter().find(|(kept, _)| *kept == kernel);
        let has_tried = |releases: &Vec<String>| {
            tried
                .iter()
                .any(|(kernel, _)| release_of(*kernel).is_some_and(|kept| kept.1 == *releases))
        };
        for (kernel, releases) in &here.kept {
            if !has_tried(releases) && !meets_the_same(tried, releases) {
                add(format!("LVS_GUEST_KERNEL={kernel}: that kernel is here{}", kernel.price()));
            }
        }
        let testing = Kernel::UmlTesting;
        let may_fetch = here.can_fetch && !cannot_fetch;
        if may_fetch && !was_tried(testing) && release_of(testing).is_none() {
            add(format!("LVS_GUEST_KERNEL={testing} fetches a kernel of 48 MB{}", testing.price()));
        }
        if here.has_qemu && !tried.iter().any(|(kernel, _)| kernel.is_qemu()) {
            add("LVS_GUEST_KERNEL=qemu-6.1 runs Debian's kernel in QEMU, which is here".to_owned());
        }
    }
    if has_uml && here.has_ipvs {
        add(own_kernel(here));
    }
    if !is_the_machines {
        if let (Some(Architecture { qemu_package, .. }), true, false, false) =
            (here.architecture, here.has_apt, here.has_qemu, cannot_fetch)
        {
            add(format!(
                "apt-get install {qemu_package} kmod, as root, and LVS_GUEST_KERNEL=qemu-6.1"
            ));
        }
        if has_uml && !here.can_fetch {
            add("LVS_GUEST_MIRROR=http://HOST/debian names a mirror of Debian (or a directory that is \
                 one): it takes no apt, and no root"
                .to_owned());
        }
        if let (true, true, Some(cache)) = (has_uml, cannot_fetch, &here.cache) {
            add(format!(
                "~/.cache/lvs-guest of a machine where a guest starts, copied to {}: it takes \
                 neither network nor apt then",
                cache.display()
            ));
        }
        if let Some(cause) = cause.or(is_unfit.then_some(Cause::Registers)) {
            cause.ways(memory).into_iter().for_each(&mut add);
        }
        if !has_uml || !here.has_apt {
            add("x86-64 Debian or Ubuntu, also in a virtual machine: apt fetches a kernel there, \
                 without root"
                .to_owned());
        }
    }
    if has_uml && !here.has_ipvs {
        add(own_kernel(here));
    }
    ways
}

/// What it takes to do without a guest.
fn own_kernel(here: &Here) -> String {
    match (here.has_ipvs, here.is_root) {
        (true, true) => "modprobe ip_vs",
        (true, false) => "root, and modprobe ip_vs",
        (false, _) => {
            return "root on a machine whose own kernel has IPVS (modprobe ip_vs)".to_owned();
        }
    }
    .to_owned()
        + ": this machine's own kernel has IPVS as a module, and is used then"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::{ARM64, X86_64};

    fn crash(cause: Option<Cause>) -> Error {
        Error::Crash { cause, end: String::new(), log: String::new() }
    }

    fn ways(here: &Here, tried: &[(Kernel, Error)]) -> String {
        of(here, tried, 512).join("\n")
    }

    fn both() -> Vec<(Kernel, Vec<String>)> {
        vec![
            (Kernel::Uml, vec!["6.1.176".to_owned()]),
            (Kernel::UmlTesting, vec!["7.2.7".to_owned()]),
        ]
    }

    /// Debian as most have it.
    fn debian() -> Here {
        let cache = Some("/cache".into());
        Here {
            has_apt: true,
            can_fetch: true,
            architecture: Some(&X86_64),
            kept: both()[..1].to_vec(),
            cache,
            ..Here::default()
        }
    }

    #[test]
    fn what_is_here_comes_first_and_what_failed_does_not() {
        // Older ones would meet the same.
        let mut here = Here { kept: both(), ..debian() };
        here.kept.push((Kernel::Uml6_12, vec!["6.12.113".to_owned()]));
        let ways = ways(&here, &[(Kernel::Uml, crash(Some(Cause::Registers)))]);
        assert!(ways.starts_with("LVS_GUEST_KERNEL=uml-testing: that kernel is here"), "{ways}");
        assert!(ways.contains("no packet filter"), "{ways}");
        assert!(ways.contains("no AMX") && ways.contains("apt-get install qemu"), "{ways}");
        for word in
            ["LVS_GUEST_KERNEL=uml:", "uml-6.12", "fetches", "copied to", "modprobe ip_vs: this"]
        {
            assert!(!ways.contains(word), "{word} in {ways}");
        }
    }

    #[test]
    fn what_cannot_be_fetched_is_not_advised() {
        let fetch = || Error::Fetch {
            command: "apt-get".to_owned(),
            words: String::new(),
            remedy: String::new(),
        };
        let here = Here { kept: Vec::new(), ..debian() };
        let offline = ways(&here, &[(Kernel::Uml, fetch())]);
        assert!(offline.contains("copied to /cache"), "{offline}");
        assert!(!offline.contains("LVS_GUEST_KERNEL") && !offline.contains("apt-get install"));
        let kept = Here { kept: both()[1..].to_vec(), has_qemu: true, ..debian() };
        let offline = ways(&kept, &[(Kernel::Uml, fetch())]);
        assert!(offline.starts_with("LVS_GUEST_KERNEL=uml-testing: that kernel is here"));
    }

    #[test]
    fn without_apt_it_names_what_takes_none() {
        let here = Here { has_apt: false, can_fetch: false, kept: Vec::new(), ..debian() };
        let none = || Error::NoKernel { reason: String::new() };
        let ways = ways(&here, &[(Kernel::Uml, none())]);
        assert!(ways.contains("copied to /cache") && ways.contains("virtual machine"), "{ways}");
        assert!(ways.contains("LVS_GUEST_MIRROR=http://HOST/debian"), "{ways}");
        assert!(!ways.contains("LVS_GUEST_KERNEL") && !ways.contains("apt-get"), "{ways}");
    }

    #[test]
    fn what_is_the_machines_fault_is_mended_and_not_gone_round() {
        let here = Here { kept: both(), ..debian() };
        for (cause, word) in [
            (Cause::NoExec, "TMPDIR=DIRECTORY"),
            (Cause::Space, "TMPDIR=DIRECTORY names one that has room for 512 MB"),
            (Cause::Memory, "LVS_GUEST_MEMORY=64"),
            (Cause::GuestMemory, "LVS_GUEST_MEMORY=1024"),
        ] {
            let ways = ways(&here, &[(Kernel::Uml, crash(Some(cause)))]);
            assert!(ways.starts_with(word), "{word} in {ways}");
            assert!(!ways.contains("LVS_GUEST_KERNEL"), "{ways}");
        }
    }

    #[test]
    fn this_machines_own_kernel_is_a_way_where_it_has_ipvs() {
        let user = Here { has_ipvs: true, ..debian() };
        let root = Here { is_root: true, ..user.clone() };
        let tried = [(Kernel::Uml, crash(Some(Cause::Ptrace)))];
        assert!(ways(&user, &tried).contains("root, and modprobe ip_vs: this machine's own"));
        assert!(ways(&root, &tried).contains("\nmodprobe ip_vs: this machine's own"));
        assert!(ways(&root, &tried).contains("SYS_PTRACE"));
    }

    #[test]
    fn on_arm64_this_machines_own_kernel_comes_first_and_then_qemu() {
        let user = Here {
            architecture: Some(&ARM64),
            can_fetch: false,
            has_ipvs: true,
            kept: Vec::new(),
            ..debian()
        };
        let no_qemu = || [(Kernel::Qemu6_1, Error::NoProgram { program: ARM64.qemu })];
        let words = ways(&user, &no_qemu());
        let lines: Vec<_> = words.lines().collect();
        assert!(lines[0].starts_with("root, and modprobe ip_vs: this machine's own"), "{words}");
        assert!(lines[1].starts_with("apt-get install qemu-system-arm kmod, as root"), "{words}");
        assert!(lines[2].starts_with("x86-64 Debian or Ubuntu") && lines.len() == 3, "{words}");
        let root = Here { is_root: true, ..user.clone() };
        assert!(ways(&root, &no_qemu()).starts_with("modprobe ip_vs: this machine's own"));
        let without = Here { has_ipvs: false, ..user.clone() };
        assert!(ways(&without, &no_qemu()).starts_with("root on a machine whose own kernel has"));
        // A kernel that was named, and that is none of this processor's.
        let none = [(Kernel::Uml, Error::NoKernel { reason: String::new() })];
        let here = Here { has_qemu: true, ..user };
        let words = ways(&here, &none);
        assert!(words.contains("\nLVS_GUEST_KERNEL=qemu-6.1 runs Debian's kernel"), "{words}");
        assert!(!words.contains("uml"), "{words}");
        // Another processor, on which nothing of this runs.
        let other = Here { architecture: None, ..here };
        assert!(ways(&other, &none).starts_with("root, and modprobe ip_vs"));
    }
}
