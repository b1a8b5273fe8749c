//! A page of metrics, as Prometheus reads one.

use std::collections::BTreeSet;

/// One escaped label value, from behind its opening quote; what follows its closing one.
fn behind_quoted(text: &str) -> &str {
    let mut all = text.char_indices();
    while let Some((at, c)) = all.next() {
        match c {
            '"' => return &text[at + 1..],
            '\\' => {
                let escaped = all.next().map(|(_, c)| c);
                assert!(matches!(escaped, Some('\\' | '"' | 'n')), "a wrong escape: {text}");
            }
            _ => {}
        }
    }
    panic!("no end of a label's value: {text}");
}

/// Every sample is of the family whose HELP and TYPE were told last and once, has a number, and is there once; labels are escaped.
pub(crate) fn well_formed(page: &str) {
    let (mut families, mut series) = (BTreeSet::new(), BTreeSet::new());
    let (mut helped, mut family, mut kind) = ("", "", "");
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split(' ').next().unwrap();
            continue;
        }
        if let Some(told) = line.strip_prefix("# TYPE ") {
            (family, kind) = told.split_once(' ').unwrap();
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            assert!(family == helped && families.insert(family), "{line}");
            continue;
        }
        if let Some(unit) = line.strip_prefix("# UNIT ") {
            assert!(unit.split(' ').next() == Some(helped), "{line}");
            continue;
        }
        let end = line.find(['{', ' ']).unwrap();
        let suffix = line[..end].strip_prefix(family).unwrap_or_else(|| panic!("no TYPE of {line}"));
        let suffixes: &[&str] = match kind {
            "counter" => &["", "_total"],
            "gauge" => &[""],
            _ => &["_bucket", "_sum", "_count"],
        };
        assert!(family.starts_with("dolmen_") && suffixes.contains(&suffix), "{line}");
        let mut rest = &line[end..];
        while let Some(labels) = rest.strip_prefix(['{', ',']) {
            let (name, value) = labels.split_once("=\"").unwrap();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
            rest = behind_quoted(value);
        }
        let value = rest.strip_prefix('}').unwrap_or(rest);
        value.strip_prefix(' ').unwrap().parse::<f64>().unwrap();
        assert!(series.insert(&line[..line.len() - value.len()]), "twice: {line}");
    }
    assert!(!series.is_empty());
}

#[test]
fn what_is_wrong_with_a_page_of_metrics_is_seen() {
    let head = "# HELP dolmen_a_b What.\n# TYPE dolmen_a_b counter\n";
    let good = format!(
        "{head}dolmen_a_b_total{{x=\"1\",y=\"a\\\"}} \\\\ b\"}} 1\ndolmen_a_b_total{{x=\"2\"}} 1.5\n"
    );
    well_formed(&good);
    for bad in [
        format!("{good}dolmen_a_b_total{{x=\"2\"}} 7\n"),
        format!("{good}{head}"),
        format!("{good}dolmen_c 7\n"),
        format!("{head}dolmen_a_b_total{{x=\"a\\q\"}} 1\n"),
        format!("{head}dolmen_a_b_total{{x=\"a\nb\"}} 1\n"),
        format!("{head}dolmen_a_b_total{{x=\"a\"b\"}} 1\n"),
    ] {
        assert!(std::panic::catch_unwind(|| well_formed(&bad)).is_err(), "{bad}");
    }
}
