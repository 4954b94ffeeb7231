//! A Kubernetes control plane (1.20.2, or what LVS_CLUSTER_PROGRAMS names) in a network namespace of the guest: `cluster/build` makes its
//! programs, `cluster/start` starts them on loopback addresses.

#![allow(dead_code, reason = "each of the tests that share this file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use lvs::{
    Desired,
    client::{Client, packet::ServiceFlags},
};
use netns_link::NetNs;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What a guest needs beside what its user asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Megabytes.
    pub(crate) memory: u32,
    pub(crate) time_limit: Duration,
}

impl Default for Room {
    fn default() -> Self {
        Self { memory: 3072, time_limit: Duration::from_secs(2400) }
    }
}

/// Puts this process into a guest that has room for a control plane, and returns where the programs are;
/// `None` if it is not asked for.
pub(crate) fn enter(room: Room) -> Result<Option<PathBuf>, Box<dyn Error>> {
    guest::assume_role();
    if std::env::args().any(|word| word == "--list") {
        return Ok(None);
    }
    // The guest has no network: what is to be fetched is fetched before.
    let Some(programs) = programs()? else { return Ok(None) };
    let mut options = guest::Options::from_env()?;
    options.memory = options.memory.max(room.memory);
    options.time_limit = Some(room.time_limit);
    println!("on {}", guest::enter(&options)?);
    Ok(Some(programs))
}

/// Where the programs are; `None` if they are not asked for.
pub(crate) fn programs() -> Result<Option<PathBuf>, Box<dyn Error>> {
    if std::env::var_os("LVS_CLUSTER").is_none_or(|value| value != "1") {
        println!("not run: LVS_CLUSTER=1 is not set");
        return Ok(None);
    }
    let output = Command::new(script("build")).stderr(Stdio::inherit()).output()?;
    assert!(output.status.success(), "cluster/build: {}", output.status);
    Ok(Some(String::from_utf8(output.stdout)?.trim().into()))
}

/// The 20 of Kubernetes 1.20.2, of which the programs are.
pub(crate) fn minor(programs: &Path) -> u32 {
    let output = Command::new(programs.join("kube-apiserver")).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let minor = text.trim().strip_prefix("Kubernetes v1.").and_then(|rest| rest.split('.').next());
    minor.and_then(|minor| minor.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

pub(crate) struct ControlPlane<'n> {
    here: &'n NetNs,
    programs: PathBuf,
    /// See [`minor`].
    pub(crate) minor: u32,
    state: TempDir,
}

impl<'n> ControlPlane<'n> {
    pub(crate) fn new(here: &'n NetNs, programs: PathBuf) -> Self {
        let minor = minor(&programs);
        Self { here, programs, minor, state: TempDir::new().unwrap() }
    }

    /// The version of EndpointSlices.
    pub(crate) fn slices(&self) -> &'static str {
        if self.minor <= 20 { "discovery.k8s.io/v1beta1" } else { "discovery.k8s.io/v1" }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.state.path().join(name)
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Runs a program in the namespace to its end.
    pub(crate) fn output(&self, command: &mut Command) -> String {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let output = self.here.spawn(command).unwrap().wait_with_output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn script(&self, name: &str, words: &[&str]) {
        self.output(Command::new(script(name)).arg(self.state.path()).args(words));
    }

    pub(crate) fn kubectl(&self, line: &str) -> String {
        self.kubectl_words(&line.split(' ').collect::<Vec<_>>())
    }

    pub(crate) fn kubectl_words(&self, words: &[&str]) -> String {
        let mut command = Command::new(self.program("kubectl"));
        command.arg("--kubeconfig").arg(self.path("admin.kubeconfig")).args(words);
        self.output(&mut command)
    }

    pub(crate) fn apply(&self, manifest: &str) {
        let file = self.path("input.yaml");
        fs::write(&file, manifest).unwrap();
        self.kubectl_words(&["apply", "--validate=false", "-f", file.to_str().unwrap()]);
    }

    /// Sends a request as an administrator.
    pub(crate) fn send(&self, method: &str, path: &str, kind: &str, body: &str) {
        let key = |name: &str| self.path("keys").join(name);
        let file = self.path("body");
        fs::write(&file, body).unwrap();
        let mut command = Command::new("curl");
        command.args(["-sfS", "-o", "/dev/null", "-X", method]);
        command.arg("--cacert").arg(key("ca.crt"));
        command.arg("--cert").arg(key("admin.crt")).arg("--key").arg(key("admin.key"));
        command.args(["-H", &format!("Content-Type: application/{kind}"), "--data-binary"]);
        command.arg(format!("@{}", file.display()));
        command.arg(format!("https://127.0.0.1:6443{path}"));
        self.output(&mut command);
    }

    pub(crate) fn patch(&self, path: &str, body: &str) {
        self.send("PATCH", path, "strategic-merge-patch+json", body);
    }

    /// Asks etcd.
    pub(crate) fn etcd(&self, path: &str, body: &str) -> String {
        let file = self.path("body");
        fs::write(&file, body).unwrap();
        let mut command = Command::new("curl");
        command.args(["-sf", &format!("http://127.0.0.1:2379/v3/kv/{path}"), "--data-binary"]);
        command.arg(format!("@{}", file.display()));
        self.output(&mut command)
    }

    /// Puts an object into etcd, past all checks of the API server.
    pub(crate) fn etcd_put(&self, key: &str, object: &Value) {
        self.etcd_put_all(&[(key.to_owned(), object.clone())]);
    }

    pub(crate) fn etcd_put_all(&self, objects: &[(String, Value)]) {
        let puts: Vec<_> = objects
            .iter()
            .map(|(key, object)| {
                let (key, value) = (base64(key.as_bytes()), base64(object.to_string().as_bytes()));
                json!({"requestPut": {"key": key, "value": value}})
            })
            .collect();
        self.etcd("txn", &json!({"success": puts}).to_string());
    }

    /// Deletes whatever has such a key.
    pub(crate) fn etcd_delete(&self, prefix: &str) {
        let mut end = prefix.as_bytes().to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let range = json!({"key": base64(prefix.as_bytes()), "range_end": base64(&end)});
        self.etcd("deleterange", &range.to_string());
    }

    /// Lets etcd forget all but the last revision.
    pub(crate) fn compact(&self) {
        let answer: Value =
            serde_json::from_str(&self.etcd("range", r#"{"key": "YQ=="}"#)).unwrap();
        let revision = answer["header"]["revision"].as_str().unwrap();
        self.etcd("compaction", &format!(r#"{{"revision": "{revision}", "physical": true}}"#));
    }
}

/// A table, a line for each service, sorted.
pub(crate) async fn lines(ipvs: &Client) -> Result<Vec<String>, Box<dyn Error>> {
    let desired = Desired::try_from(&ipvs.snapshot().await?)?;
    let lines = desired.iter().map(|service| {
        let settings = service.service();
        let mut line = format!("{} {}", settings.key(), settings.scheduler);
        if settings.flags.contains(ServiceFlags::PERSISTENT) {
            line += &format!(" persistent {}", settings.timeout);
        }
        let mut servers: Vec<_> = service
            .destinations()
            .iter()
            .map(|server| match server.weight.get() {
                1 => server.key.to_string(),
                weight => format!("{}*{weight}", server.key),
            })
            .collect();
        servers.sort();
        servers.iter().fold(line, |line, server| format!("{line} {server}"))
    });
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    Ok(lines)
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster").join(name)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .chain([0; 2].iter())
            .take(3)
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place) & 63) as usize];
            let _ = match place <= chunk.len() {
                true => write!(text, "{}", char::from(digit)),
                false => write!(text, "="),
            };
        }
    }
    text
}
