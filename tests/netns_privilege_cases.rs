//! netns-link with the least privileges that its documentation names, and at the limits of a process.

use std::{fs, net::IpAddr, path::Path, process};

use kernel_tests::Outcome;
use libtest_mimic::{Failed, Trial};
use netns_link::{
    Announcer, Error, ErrorKind, NetNs, RealServerArp, Route, Setting, blocking::Links,
    prepare_director, prepare_real_server,
};
use nix::{
    mount::{MsFlags, mount},
    unistd::geteuid,
};

use crate::part::{self, Part};

const WITHOUT_CAPABILITIES: Part = Part("netns_without_capabilities", without_capabilities);
const WITH_NET_ADMIN: Part = Part("netns_with_net_admin", with_net_admin);
const SETTINGS_READ_ONLY: Part = Part("netns_settings_read_only", settings_read_only);
const SETTINGS_READ_ONLY_AT_UNDOING: Part =
    Part("netns_settings_read_only_at_undoing", settings_read_only_at_undoing);
const FEW_DESCRIPTORS: Part = Part("netns_few_descriptors", few_descriptors);
const ONE_THREAD: Part = Part("netns_one_thread", one_thread);

pub(crate) const PARTS: &[Part] = &[
    WITHOUT_CAPABILITIES,
    WITH_NET_ADMIN,
    SETTINGS_READ_ONLY,
    SETTINGS_READ_ONLY_AT_UNDOING,
    FEW_DESCRIPTORS,
    ONE_THREAD,
];

/// Every case by its name.
pub(crate) fn cases() -> Vec<Trial> {
    let (case, own_mounts) = (part::case, &["unshare", "--mount"]);
    vec![
        case(
            "netns_root_without_capabilities",
            WITHOUT_CAPABILITIES,
            part::ROOT_WITHOUT_CAPABILITIES,
        ),
        case(
            "netns_user_without_capabilities",
            WITHOUT_CAPABILITIES,
            part::USER_WITHOUT_CAPABILITIES,
        ),
        case("netns_root_with_net_admin", WITH_NET_ADMIN, part::ROOT_WITH_NET_ADMIN),
        case("netns_user_with_net_admin", WITH_NET_ADMIN, part::USER_WITH_NET_ADMIN),
        case("netns_settings_read_only", SETTINGS_READ_ONLY, own_mounts),
        case("netns_settings_read_only_at_undoing", SETTINGS_READ_ONLY_AT_UNDOING, own_mounts),
        case("netns_few_descriptors", FEW_DESCRIPTORS, &["prlimit", "--nofile=32"]),
        case("netns_one_thread", ONE_THREAD, part::USER_WITH_ONE_THREAD),
        Trial::test("netns_limit_of_namespaces", limit_of_namespaces),
    ]
}

/// Everything that only reads works; all other calls report what they need.
fn without_capabilities() -> Outcome {
    let here = NetNs::current()?;
    assert_eq!(here.run(NetNs::current)??, here);
    assert_eq!(NetNs::from_pid(process::id())?, here);
    let links = Links::connect(&here)?;
    assert_eq!(links.list()?.len(), 1);
    let lo = links.find("lo")?.ok_or("no lo")?;
    assert_eq!(links.find_index(lo.index)?, Some(lo.clone()));
    assert_eq!(links.addresses(&lo)?, []);
    assert!(links.all_addresses()?.is_empty());
    assert_eq!(links.routes(&lo)?, []);
    assert_eq!(Setting::ip_forward().read(&here)?, "0");

    let vip: IpAddr = [10, 0, 0, 185].into();
    refused("CAP_NET_ADMIN", links.up(&lo));
    refused("CAP_NET_ADMIN", links.set_mtu(&lo, 2000));
    refused("CAP_NET_ADMIN", links.create_dummy("ipvs0"));
    refused("CAP_NET_ADMIN", links.add_address(&lo, vip.into()));
    refused("CAP_NET_ADMIN", links.delete_address(&lo, vip.into()));
    refused("CAP_NET_ADMIN", links.set_addresses(&lo, &[vip.into()]).map_err(Error::from));
    refused("CAP_NET_ADMIN", links.add_route(&lo, Route::local(vip.into())));
    refused("CAP_NET_ADMIN", prepare_director(&here, "ipvs0", &[vip]));
    refused("CAP_NET_ADMIN", prepare_real_server(&here, "dummy1", &["fd00::1".parse()?]));
    refused("CAP_SYS_ADMIN", NetNs::new());
    in_other_namespace()?;
    let mut arp = RealServerArp::apply(&here);
    if geteuid().is_root() {
        // Root owns the files of most settings.
        arp.as_mut().map_err(|error| error.to_string())?.undo(&here)?;
    } else {
        refused("CAP_NET_ADMIN", arp);
        refused("CAP_NET_ADMIN", Setting::ip_forward().write(&here, 1));
        // A setting that is a secret.
        refused("CAP_NET_ADMIN", Setting::new("net/ipv4/tcp_fastopen_key")?.read(&here));
    }
    assert_eq!(Setting::arp_ignore("all")?.read(&here)?, "0");
    let traced = NetNs::from_pid(std::os::unix::process::parent_id()).unwrap_err();
    assert_eq!(traced.kind(), ErrorKind::PermissionDenied, "{traced}");
    assert!(traced.to_string().contains("CAP_SYS_PTRACE"), "{traced}");
    Ok(())
}

/// In the process's own namespace, CAP_NET_ADMIN is enough for everything but another namespace.
fn with_net_admin() -> Outcome {
    let here = NetNs::current()?;
    let links = Links::connect(&here)?;
    let lo = links.find("lo")?.ok_or("no lo")?;
    links.up(&lo)?;
    let dummy = links.create_dummy("ipvs0")?.link;
    links.set_mtu(&dummy, 9000)?;
    links.set_arp(&dummy, true)?;
    let vips: [IpAddr; 2] = ["10.0.0.185".parse()?, "fd00::185".parse()?];
    let director = prepare_director(&here, "ipvs0", &vips)?;
    assert_eq!(links.addresses(&director)?.len(), 3, "the two and the link's own");
    let route = Route::local("10.1.0.0/16".parse()?).with_source(vips[0]);
    assert!(links.add_route(&lo, route)?);
    assert!(links.delete_route(&lo, route)?);
    assert!(links.delete_dummy("ipvs0")?);
    Setting::ip_forward().write(&here, 1)?;
    assert_eq!(Setting::ip_forward().read(&here)?, "1");
    let mut setup = prepare_real_server(&here, "dummy1", &vips)?;
    assert_eq!(Setting::arp_ignore("all")?.read(&here)?, "1");
    // While the virtual IPs exist, the host must not answer ARP for them.
    let elsewhere = setup.undo(&part::other_namespace()?).unwrap_err();
    assert_eq!(elsewhere.kind(), ErrorKind::InvalidInput, "{elsewhere}");
    // Addresses can be announced on an Ethernet link.
    let dummy = Links::connect(&here)?.find("dummy1")?.ok_or("no dummy1")?;
    refused("CAP_NET_RAW", Announcer::open(&here, &dummy, &vips));
    let lo = Links::connect(&here)?.find("lo")?.ok_or("no lo")?;
    let unsupported = Announcer::open(&here, &lo, &vips).unwrap_err();
    assert!(unsupported.to_string().contains("Ethernet"), "{unsupported}");
    assert_eq!(Setting::arp_ignore("all")?.read(&here)?, "1");
    setup.undo(&here)?;
    assert_eq!(links.find("dummy1")?, None);
    assert_eq!(Setting::arp_ignore("all")?.read(&here)?, "0");

    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let links = netns_link::Links::connect(&here)?;
        links.create_dummy("async0").await?;
        links.delete_dummy("async0").await
    })?;
    refused("CAP_SYS_ADMIN", NetNs::new());
    in_other_namespace()
}

fn in_other_namespace() -> Outcome {
    let other = part::other_namespace()?;
    assert_ne!(other, NetNs::current()?);
    refused("CAP_SYS_ADMIN", other.run(|| ()));
    refused("CAP_SYS_ADMIN", Links::connect(&other));
    refused("CAP_SYS_ADMIN", Setting::ip_forward().read(&other));
    refused("CAP_SYS_ADMIN", prepare_director(&other, "ipvs0", &[]));
    // No name is made, and no file is left in its place.
    let name = format!("netns-link-refused-{}", process::id());
    refused("CAP_SYS_ADMIN", NetNs::current()?.attach(&name));
    assert!(!NetNs::names()?.contains(&name));
    Ok(())
}

/// As in an unprivileged container.
fn settings_read_only() -> Outcome {
    mount_settings(MsFlags::MS_RDONLY)?;
    let here = NetNs::current()?;
    assert_eq!(Setting::ip_forward().read(&here)?, "0");
    let error = Setting::ip_forward().write(&here, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    assert!(error.to_string().contains("/proc/sys is mounted read-only"), "{error}");
    let vips = [[10, 0, 0, 185].into()];
    let error = prepare_real_server(&here, "dummy1", &vips).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    assert!(error.not_undone().is_none(), "{error}");
    assert_eq!(Links::connect(&here)?.find("dummy1")?, None);
    Ok(())
}

/// What cannot be undone now can be undone later.
fn settings_read_only_at_undoing() -> Outcome {
    mount_settings(MsFlags::empty())?;
    let here = NetNs::current()?;
    let ignore = Setting::arp_ignore("all")?;
    let mut setup = prepare_real_server(&here, "dummy1", &[[10, 0, 0, 185].into()])?;
    mount_settings(MsFlags::MS_RDONLY)?;
    let error = setup.undo(&here).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    assert_eq!(Links::connect(&here)?.find("dummy1")?, None, "the link is left");
    assert_eq!(ignore.read(&here)?, "1");
    mount_settings(MsFlags::empty())?;
    setup.undo(&here)?;
    assert_eq!(ignore.read(&here)?, "0");
    setup.undo(&here)?;
    Ok(())
}

fn mount_settings(flags: MsFlags) -> Outcome {
    const PATH: &str = "/proc/sys";
    let none = None::<&str>;
    mount(Some(PATH), PATH, none, MsFlags::MS_BIND, none)?;
    Ok(mount(none, PATH, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags, none)?)
}

/// One descriptor for a namespace, one for a socket; with fewer, the error says what to do.
fn few_descriptors() -> Outcome {
    let here = NetNs::current()?;
    let before = descriptors()?;
    let namespace = NetNs::new()?;
    assert_eq!(descriptors()?, before + 1);
    let links = Links::connect(&here)?;
    assert_eq!(descriptors()?, before + 2);
    let clone = links.clone();
    assert_eq!(descriptors()?, before + 2, "a clone has none of its own");
    drop((namespace, links, clone));
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let with_runtime = descriptors()?;
        let links = netns_link::Links::connect(&here)?;
        assert_eq!(descriptors()?, with_runtime + 1);
        links.list().await?;
        Ok::<_, Failed>(())
    })?;

    let mut held = Vec::new();
    let error = loop {
        match NetNs::current() {
            Ok(namespace) => held.push(namespace),
            Err(error) => break error,
        }
    };
    for error in [error, Links::connect(&here).unwrap_err(), NetNs::new().unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    }
    Ok(())
}

fn descriptors() -> Result<usize, Failed> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

fn one_thread() -> Outcome {
    for result in [NetNs::new().map(drop), part::other_namespace()?.run(|| ())] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        assert!(error.to_string().contains("RLIMIT_NPROC"), "{error}");
    }
    // The process's own namespace needs no thread.
    assert_eq!(Links::connect(&NetNs::current()?)?.list()?.len(), 1);
    Ok(())
}

fn limit_of_namespaces() -> Outcome {
    let path = Path::new("/proc/sys/user/max_net_namespaces");
    let before = fs::read_to_string(path)?;
    fs::write(path, "0")?;
    let made = NetNs::new();
    fs::write(path, before)?;
    let error = made.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
    assert!(error.to_string().contains("user.max_net_namespaces"), "{error}");
    Ok(())
}

/// A capability is missing, and the error names it and no other.
fn refused<T>(capability: &str, result: Result<T, Error>) {
    let Err(error) = result else { panic!("it was allowed without {capability}") };
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    let text = error.to_string();
    assert!(text.contains(capability) && text.matches("CAP_").count() == 1, "{text}");
}
