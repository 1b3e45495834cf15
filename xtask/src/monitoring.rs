//! The stage `monitoring`: what the command exports is what Prometheus reads, and the rules and the
//! dashboard ask for what is exported.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    place::{cargo, repository, target},
    setup::{self, Group},
};

/// A device as sysfs shows it.
const DEVICE: [(&str, &str); 11] = [
    ("size", "1073741824"),
    ("free", "237568"),
    ("allocated", "24576"),
    ("poisoned", "1"),
    ("metadata", "0"),
    ("moved_in", "12288"),
    ("moved_out", "17"),
    ("filled", "8192"),
    ("freed", "3"),
    ("node", "0"),
    ("chunks", "1"),
];

/// Runs the stage.
pub(crate) fn check() -> Result<()> {
    setup::ensure(Group::Monitoring)?;
    cargo(&["build", "--quiet", "--package", "cohmem-cli"])?;
    let scratch = target()?.join("monitoring");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    }
    let sysfs = scratch.join("sysfs");
    for device in ["cohmem0", "cohmem1"] {
        let directory = sysfs.join("class/cohmem").join(device);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        for (name, text) in DEVICE.into_iter().chain([("state", "online")]) {
            fs::write(directory.join(name), format!("{text}\n")).context(name)?;
        }
    }
    let text = printed(&sysfs, "text")?;
    promtool(&["check", "metrics"], Path::new("."), &text)?;
    let openmetrics = printed(&sysfs, "openmetrics")?;
    check_openmetrics(&openmetrics, &scratch)?;
    check_served(&sysfs, &text, &openmetrics)?;
    let directory = repository()?.join("packaging/monitoring");
    promtool(&["check", "rules", "alerts.yml"], &directory, "")?;
    promtool(&["test", "rules", "alerts_test.yml"], &directory, "")?;
    let exported = exported(&text);
    let rules = fs::read_to_string(directory.join("alerts.yml")).context("alerts.yml")?;
    check_names("alerts.yml", &rules, &exported)?;
    let dashboard = fs::read_to_string(directory.join("dashboard.json")).context("dashboard")?;
    check_dashboard(&dashboard, &exported)?;
    println!("{} metrics, as Prometheus reads them", exported.len());
    Ok(())
}

fn command(sysfs: &Path) -> Result<Command> {
    let mut command = Command::new(target()?.join("debug/cohmem"));
    command.arg("metrics").arg("--sysfs").arg(sysfs);
    Ok(command)
}

fn printed(sysfs: &Path, format: &str) -> Result<String> {
    let output = command(sysfs)?
        .args(["--format", format])
        .output()
        .context("cohmem metrics")?;
    ensure!(output.status.success(), "cohmem metrics: {}", output.status);
    String::from_utf8(output.stdout).context("metrics are UTF-8")
}

/// Runs promtool, which must find nothing to complain of.
fn promtool(arguments: &[&str], directory: &Path, input: &str) -> Result<()> {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .spawn()
        .context("promtool")?;
    let mut stdin = child.stdin.take().context("its input is a pipe")?;
    stdin.write_all(input.as_bytes()).context("promtool")?;
    drop(stdin);
    let status = child.wait().context("promtool")?;
    ensure!(
        status.success(),
        "promtool {}: {status}",
        arguments.join(" ")
    );
    Ok(())
}

/// Has Prometheus's own reader of OpenMetrics take the page: the import of samples, which wants a time
/// at each.
fn check_openmetrics(page: &str, scratch: &Path) -> Result<()> {
    let timed: String = page
        .lines()
        .map(|line| match line.starts_with('#') {
            true => format!("{line}\n"),
            false => format!("{line} 1700000000\n"),
        })
        .collect();
    let input = scratch.join("openmetrics.txt");
    fs::write(&input, timed).with_context(|| input.display().to_string())?;
    let arguments = [
        "tsdb",
        "create-blocks-from",
        "openmetrics",
        "openmetrics.txt",
        "blocks",
    ];
    promtool(&arguments, scratch, "")
}

/// A server that ends with its value.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself, which the check has then noticed.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Over HTTP comes the same, in the format that the scraper takes.
fn check_served(sysfs: &Path, text: &str, openmetrics: &str) -> Result<()> {
    let mut server = Served(
        command(sysfs)?
            .args(["--listen", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .context("cohmem metrics --listen")?,
    );
    let stderr = server.0.stderr.take().context("its messages are a pipe")?;
    let mut line = String::new();
    BufReader::new(stderr)
        .read_line(&mut line)
        .context("its first line")?;
    let address = line
        .trim()
        .strip_prefix("serving http://")
        .and_then(|rest| rest.strip_suffix("/metrics"))
        .with_context(|| format!("it said {line:?}"))?;
    let openmetrics_first = "application/openmetrics-text;version=1.0.0,text/plain;q=0.1";
    for (accept, kind, page) in [
        ("text/plain", "text/plain; version=0.0.4", text),
        (
            openmetrics_first,
            "application/openmetrics-text",
            openmetrics,
        ),
    ] {
        let reply = get(address, accept)?;
        let (head, body) = reply.split_once("\r\n\r\n").context("a reply has a body")?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "it answered {head}");
        ensure!(
            head.contains(&format!("Content-Type: {kind}")),
            "it answered {head}"
        );
        ensure!(body == page, "it served {body}");
    }
    Ok(())
}

fn get(address: &str, accept: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .context("the request")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).context("the reply")?;
    Ok(reply)
}

/// Names of the samples of a page.
fn exported(page: &str) -> BTreeSet<&str> {
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect()
}

/// Words of a text that look like metrics of ours.
fn named(text: &str) -> BTreeSet<&str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("cohmem_"))
        .collect()
}

fn check_names(file: &str, text: &str, exported: &BTreeSet<&str>) -> Result<()> {
    let named = named(text);
    ensure!(!named.is_empty(), "{file} asks for no metric");
    let unknown: Vec<_> = named.difference(exported).copied().collect();
    if !unknown.is_empty() {
        bail!(
            "{file} asks for {}, which nothing exports",
            unknown.join(", ")
        );
    }
    Ok(())
}

/// What Grafana needs to load it, and that each panel asks for something.
fn check_dashboard(text: &str, exported: &BTreeSet<&str>) -> Result<()> {
    let dashboard: Value = serde_json::from_str(text).context("dashboard.json")?;
    for key in ["uid", "title"] {
        ensure!(
            dashboard[key].as_str().is_some_and(|text| !text.is_empty()),
            "no {key}"
        );
    }
    ensure!(
        dashboard["schemaVersion"]
            .as_u64()
            .is_some_and(|version| version >= 36)
    );
    let panels = dashboard["panels"]
        .as_array()
        .context("panels are a list")?;
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().context("a panel has a title")?;
        ensure!(
            ids.insert(panel["id"].as_u64()),
            "{title}: its id is another's, too"
        );
        let place = |key: &str| panel["gridPos"][key].as_u64();
        let is_placed = ["x", "y", "w", "h"]
            .into_iter()
            .all(|key| place(key).is_some());
        ensure!(
            is_placed && place("x") < Some(24),
            "{title}: it has no place"
        );
        let targets = panel["targets"].as_array().context("targets are a list")?;
        ensure!(!targets.is_empty(), "{title}: it asks for nothing");
        for target in targets {
            let query = target["expr"].as_str().context("a target has an expr")?;
            check_names(&format!("the panel {title:?}"), query, exported)?;
        }
    }
    // Whatever is exported is shown.
    let unshown: Vec<_> = exported.difference(&named(text)).copied().collect();
    ensure!(unshown.is_empty(), "no panel shows {}", unshown.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE cohmem_a gauge\ncohmem_a{b=\"c\"} 1\ncohmem_d 2\n";

    fn dashboard(query: &str) -> String {
        format!(
            r#"{{"uid": "u", "title": "t", "schemaVersion": 38, "panels": [
                {{"id": 1, "title": "p", "gridPos": {{"x": 0, "y": 0, "w": 1, "h": 1}},
                 "targets": [{{"expr": "{query}"}}]}}]}}"#
        )
    }

    #[test]
    fn a_panel_asks_for_what_is_exported() {
        let exported = exported(PAGE);
        assert_eq!(exported, BTreeSet::from(["cohmem_a", "cohmem_d"]));
        check_dashboard(&dashboard("cohmem_a + cohmem_d"), &exported).unwrap();
        for (query, complaint) in [
            ("cohmem_a + cohmem_d + cohmem_e", "cohmem_e"),
            ("up", "no metric"),
            ("cohmem_a", "no panel shows cohmem_d"),
        ] {
            let error = check_dashboard(&dashboard(query), &exported).unwrap_err();
            assert!(error.to_string().contains(complaint), "{error}");
        }
        check_dashboard("{}", &exported).unwrap_err();
    }
}
