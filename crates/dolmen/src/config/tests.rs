//! Settings from flags and file: what wins, what is refused, and with which words.

use super::*;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    serve: ServeArgs,
}

fn load(flags: &[&str]) -> Result<ServeOptions, ConfigError> {
    let line = Line::try_parse_from(std::iter::once("serve").chain(flags.iter().copied())).unwrap();
    ServeOptions::load(Some(Path::new("/data")), line.serve)
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let options = load(&["--drive", "/d/a:10GiB"]).unwrap();
    assert_eq!((options.port, options.discovery_port, options.api_port), (4420, 8009, 8443));
    assert_eq!(options.listen, ["0.0.0.0".parse::<IpAddr>().unwrap()]);
    assert_eq!(options.cores, Cores::Count(1));
    assert_eq!(options.poll_window, Duration::from_micros(50));
    assert!(!options.sparse && !options.allow_test_volumes && options.advertise.is_none());
    assert_eq!((options.log_level, options.log_format), (LogLevel::Info, LogFormat::Text));
}

#[test]
fn every_flag_arrives() {
    let options = load(&[
        "--drive",
        "/d/a:1GiB",
        "--drive",
        "/dev/x",
        "--sparse",
        "--listen",
        "127.0.0.1",
        "--listen",
        "::1",
        "--port",
        "1",
        "--discovery-port",
        "2",
        "--api-port",
        "0",
        "--cores",
        "0,2-3",
        "--advertise",
        "192.0.2.1",
        "--subsystem-nqn",
        "nqn.2020-01.org.example:s",
        "--cluster-name",
        "c",
        "--cluster-key",
        "/k",
        "--encryption",
        "off",
        "--allow-test-volumes",
        "--uring-mask",
        "a,b-c",
        "--poll-window-us",
        "0",
        "--congestion-control",
        "dctcp",
        "--log-level",
        "debug",
        "--log-format",
        "json",
    ])
    .unwrap();
    assert_eq!(options.drives.len(), 2);
    assert!(options.sparse && options.allow_test_volumes && !options.encryption);
    assert_eq!(options.cluster_key, Some(PathBuf::from("/k")));
    assert_eq!(options.listen.len(), 2);
    assert_eq!(options.cores, Cores::List(vec![0, 2, 3]));
    assert_eq!(options.uring_mask, ["a", "b-c"]);
    assert_eq!(options.poll_window, Duration::ZERO);
    assert_eq!(options.congestion_control.as_deref(), Some("dctcp"));
    assert_eq!(options.subsystem_nqn.unwrap().as_str(), "nqn.2020-01.org.example:s");
    assert_eq!(options.log_format, LogFormat::Json);
}

fn with_file(text: &str, flags: &[&str]) -> Result<ServeOptions, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dolmen.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_string();
    let line = Line::try_parse_from([&["serve", "--config", &path], flags].concat()).unwrap();
    ServeOptions::load(None, line.serve)
}

#[test]
fn the_file_can_say_all_that_flags_can() {
    let file = r#"
        data = "/file-data"
        drive = ["/d/a:1GiB", "/d/b:1GiB"]
        sparse = true
        parity = 1
        listen = ["::1"]
        port = 1
        discovery-port = 2
        api-port = 3
        cores = 2
        advertise = "192.0.2.1"
        subsystem-nqn = "nqn.2020-01.org.example:s"
        cluster-name = "c"
        cluster-key = "/k"
        encryption = "off"
        allow-test-volumes = true
        nbd = ["10809", "unix:/run/nbd"]
        nbd-host = "nqn.2020-01.org.example:n"
        nbd-read-only = true
        uring-mask = ["a"]
        poll-window-us = 7
        congestion-control = "cubic"
        log-level = "warn"
        log-format = "json"
    "#;
    let options = with_file(file, &[]).unwrap();
    assert_eq!(options.data, PathBuf::from("/file-data"));
    assert_eq!((options.drives.len(), options.cores.clone()), (2, Cores::Count(2)));
    assert_eq!((options.parity, &options.cluster_key), (Some(1), &Some(PathBuf::from("/k"))));
    assert!(options.sparse && options.allow_test_volumes);
    assert!(options.nbd.is_some_and(|nbd| nbd.listen.len() == 2 && nbd.access.read_only));
    assert_eq!(options.congestion_control.as_deref(), Some("cubic"));
    for wrong in ["", "a-name-that-is-long"] {
        let error = with_file(file, &["--congestion-control", wrong]).unwrap_err();
        assert!(error.to_string().contains("--congestion-control"), "{error}");
    }
    let options = with_file(file, &["--drive", "/d/c:1GiB", "--sparse=false", "--port", "9"]).unwrap();
    assert_eq!((options.drives.len(), options.sparse, options.port, options.api_port), (1, false, 9, 3));
    // Every flag of the command line has its key: a flag that is added must be added to this file too. But --config, and
    // --degraded, which is for one start and must not stay.
    use clap::CommandFactory;
    // The cluster key comes from one place alone.
    let not_here = ["config", "degraded", "cluster_passphrase_file"];
    for arg in Line::command().get_arguments().filter(|a| !not_here.contains(&a.get_id().as_str())) {
        let key = arg.get_long().unwrap();
        assert!(file.contains(&format!("{key} =")), "{key}");
    }
}

#[test]
fn the_cluster_key_comes_from_one_place() {
    let from = |file: &str| with_file(&format!("data = \"/d\"\ndrive = [\"/a:1GiB\"]\n{file}"), &[]);
    let options = from("cluster-passphrase-file = \"/p\"").unwrap();
    assert_eq!((options.cluster_passphrase_file, options.cluster_key), (Some(PathBuf::from("/p")), None));
    assert!(options.encryption, "on unless it is said otherwise");
    let why = from("cluster-passphrase-file = \"/p\"\ncluster-key = \"/k\"").unwrap_err().to_string();
    assert!(why.contains("--cluster-key"), "{why}");
}

#[test]
fn unknown_keys_and_wrong_types_are_refused_with_the_place() {
    for (file, says) in [
        ("drives = []", "unknown field `drives`"),
        ("port = \"x\"", "port"),
        ("port = 70000", "port"),
        ("config = \"x\"", "unknown field"),
        ("port = ", "line 1"),
        ("log-level = \"loud\"", "loud"),
    ] {
        let why = with_file(file, &[]).unwrap_err().to_string();
        assert!(why.contains(says), "{file}: {why}");
        assert!(why.starts_with("--config "), "{why}");
    }
    let line = Line::try_parse_from(["serve", "--config", "/no/such/file"]).unwrap();
    assert!(ServeOptions::load(None, line.serve).unwrap_err().to_string().contains("/no/such/file"));
}

#[test]
fn wrong_settings_are_refused_by_name() {
    let drive = ["--drive", "/d/a:1GiB"];
    for (flags, says) in [
        (&["--port", "8009"][..], "--port and --discovery-port"),
        (&["--api-port", "4420"], "--port and --api-port"),
        (&["--drive", "/d/a:2GiB"], "given twice"),
        (&["--listen", "::1", "--listen", "::1"], "given twice"),
        (&["--cores", "0"], "--cores"),
        (&["--cores", "x"], "--cores"),
        (&["--cores", "3-1"], "upwards"),
        (&["--cores", "1,1"], "twice"),
        (&["--cores", "0-99999999999"], "at most"),
        (&["--cores", ","], "no CPU"),
        (&["--advertise", "0.0.0.0"], "--advertise"),
        (&["--subsystem-nqn", "x"], "--subsystem-nqn"),
        (&["--subsystem-nqn", Nqn::DISCOVERY], "--subsystem-nqn"),
        (&["--cluster-name", "a b"], "--cluster-name"),
        (&["--uring-mask", "A"], "--uring-mask"),
        (&["--poll-window-us", "9999999"], "--poll-window-us"),
    ] {
        let why = load(&[&drive, flags].concat()).unwrap_err().to_string();
        assert!(why.contains(says), "{flags:?}: {why}");
    }
    assert!(load(&[]).unwrap_err().to_string().contains("--drive is missing"));
    let line = Line::try_parse_from(["serve", "--drive", "/d/a:1GiB"]).unwrap();
    assert!(ServeOptions::load(None, line.serve).unwrap_err().to_string().contains("--data is missing"));
}
