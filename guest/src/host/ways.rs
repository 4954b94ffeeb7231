//! What a user can do if no guest starts.

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

/// The facts about this machine that decide which remedies apply.
#[derive(Clone, Debug, Default)]
pub(super) struct Here {
    is_root: bool,
    has_apt: bool,
    can_fetch: bool,
    has_qemu: bool,
    /// This machine's kind of processor, if guests run on it.
    architecture: Option<&'static Architecture>,
    /// The running kernel has IPVS as a module.
    has_ipvs: bool,
    /// Kernels in the cache, and their releases.
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

/// Whether the cause that ended a kernel would end one of these releases, too.
pub(super) fn meets_the_same(tried: &[(Kernel, Error)], releases: &[String]) -> bool {
    let fixed_in = |error: &Error| match error {
        Error::Crash { cause, .. } => cause.and_then(Cause::fixed_in),
        _ => None,
    };
    tried.iter().filter_map(|(_, error)| fixed_in(error)).any(|first| {
        releases.iter().any(|release| shim::version(release).is_some_and(|version| version < first))
    })
}

/// What helps on this machine, the surest remedy first.
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
    let is_machine_fault = cause.is_some_and(Cause::is_machine_fault);
    let mut ways = Vec::new();
    let mut add = |way: String| ways.push(way);
    // Without User-Mode Linux, the remedy that needs no QEMU, which is slow, comes first.
    if !has_uml {
        add(own_kernel(here));
    }
    if let (true, Some(cause)) = (is_machine_fault, cause) {
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
                add(format!(
                    "set LVS_GUEST_KERNEL={kernel}: that kernel is here{}",
                    kernel.drawback()
                ));
            }
        }
        let testing = Kernel::UmlTesting;
        let may_fetch = here.can_fetch && !cannot_fetch;
        if may_fetch && !was_tried(testing) && release_of(testing).is_none() {
            add(format!(
                "set LVS_GUEST_KERNEL={testing} to fetch a kernel of 48 MB{}",
                testing.drawback()
            ));
        }
        if here.has_qemu && !tried.iter().any(|(kernel, _)| kernel.is_qemu()) {
            add("set LVS_GUEST_KERNEL=qemu-6.1 to run Debian's kernel in QEMU, which is here"
                .to_owned());
        }
    }
    if has_uml && here.has_ipvs {
        add(own_kernel(here));
    }
    if !is_machine_fault {
        if let (Some(Architecture { qemu_package, .. }), true, false, false) =
            (here.architecture, here.has_apt, here.has_qemu, cannot_fetch)
        {
            add(format!(
                "run apt-get install {qemu_package} kmod as root, and set LVS_GUEST_KERNEL=qemu-6.1"
            ));
        }
        if has_uml && !here.can_fetch {
            add(
                "set LVS_GUEST_MIRROR=http://HOST/debian to a mirror of Debian (or to a directory \
                 with its files): this needs neither apt nor root"
                    .to_owned(),
            );
        }
        if let (true, true, Some(cache)) = (has_uml, cannot_fetch, &here.cache) {
            add(format!(
                "copy ~/.cache/lvs-guest from a machine where a guest starts to {}: then it needs \
                 neither network nor apt",
                cache.display()
            ));
        }
        if let Some(cause) = cause.or(is_unfit.then_some(Cause::Registers)) {
            cause.ways(memory).into_iter().for_each(&mut add);
        }
        if !has_uml || !here.has_apt {
            add("use x86-64 Debian or Ubuntu, perhaps in a virtual machine: there, apt fetches a kernel \
                 without root"
                .to_owned());
        }
    }
    if has_uml && !here.has_ipvs {
        add(own_kernel(here));
    }
    ways
}

/// How to do without a guest.
fn own_kernel(here: &Here) -> String {
    match (here.has_ipvs, here.is_root) {
        (true, true) => "run modprobe ip_vs",
        (true, false) => "become root, and run modprobe ip_vs",
        (false, _) => {
            return "become root on a machine whose own kernel has IPVS (modprobe ip_vs)"
                .to_owned();
        }
    }
    .to_owned()
        + ": then this machine's own kernel is used, which has IPVS as a module"
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
        assert!(
            ways.starts_with("set LVS_GUEST_KERNEL=uml-testing: that kernel is here"),
            "{ways}"
        );
        assert!(ways.contains("no packet filter"), "{ways}");
        assert!(ways.contains("no AMX") && ways.contains("apt-get install qemu"), "{ways}");
        for word in
            ["LVS_GUEST_KERNEL=uml:", "uml-6.12", "to fetch", "to /cache", "modprobe ip_vs: then"]
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
        assert!(offline.contains(" to /cache: "), "{offline}");
        assert!(!offline.contains("LVS_GUEST_KERNEL") && !offline.contains("apt-get install"));
        let kept = Here { kept: both()[1..].to_vec(), has_qemu: true, ..debian() };
        let offline = ways(&kept, &[(Kernel::Uml, fetch())]);
        assert!(offline.starts_with("set LVS_GUEST_KERNEL=uml-testing: that kernel is here"));
    }

    #[test]
    fn without_apt_it_names_what_takes_none() {
        let here = Here { has_apt: false, can_fetch: false, kept: Vec::new(), ..debian() };
        let none = || Error::NoKernel { reason: String::new() };
        let ways = ways(&here, &[(Kernel::Uml, none())]);
        assert!(ways.contains(" to /cache: ") && ways.contains("virtual machine"), "{ways}");
        assert!(ways.contains("LVS_GUEST_MIRROR=http://HOST/debian"), "{ways}");
        assert!(!ways.contains("LVS_GUEST_KERNEL") && !ways.contains("apt-get"), "{ways}");
    }

    #[test]
    fn what_is_the_machines_fault_is_mended_and_not_gone_round() {
        let here = Here { kept: both(), ..debian() };
        for (cause, word) in [
            (Cause::NoExec, "set TMPDIR=DIRECTORY"),
            (Cause::Space, "set TMPDIR=DIRECTORY to one that has room for 512 MB"),
            (Cause::Memory, "set LVS_GUEST_MEMORY=64"),
            (Cause::GuestMemory, "set LVS_GUEST_MEMORY=1024"),
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
        assert!(ways(&user, &tried).contains("become root, and run modprobe ip_vs: then this"));
        assert!(ways(&root, &tried).contains("\nrun modprobe ip_vs: then this machine's own"));
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
        assert!(lines[0].starts_with("become root, and run modprobe ip_vs: then"), "{words}");
        assert!(
            lines[1].starts_with("run apt-get install qemu-system-arm kmod as root"),
            "{words}"
        );
        assert!(lines[2].starts_with("use x86-64 Debian or Ubuntu") && lines.len() == 3, "{words}");
        let root = Here { is_root: true, ..user.clone() };
        assert!(ways(&root, &no_qemu()).starts_with("run modprobe ip_vs: then this machine's own"));
        let without = Here { has_ipvs: false, ..user.clone() };
        assert!(
            ways(&without, &no_qemu()).starts_with("become root on a machine whose own kernel has")
        );
        // A kernel that was named, and that is none of this processor's.
        let none = [(Kernel::Uml, Error::NoKernel { reason: String::new() })];
        let here = Here { has_qemu: true, ..user };
        let words = ways(&here, &none);
        assert!(
            words.contains("\nset LVS_GUEST_KERNEL=qemu-6.1 to run Debian's kernel"),
            "{words}"
        );
        assert!(!words.contains("uml"), "{words}");
        // Another processor, on which nothing of this runs.
        let other = Here { architecture: None, ..here };
        assert!(ways(&other, &none).starts_with("become root, and run modprobe ip_vs"));
    }
}
