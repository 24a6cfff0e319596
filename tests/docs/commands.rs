//! Commands that the documents say to type: `meshwright`'s parse as the program parses them, those of
//! kubectl and helm use verbs and options that there are.

use clap::{CommandFactory as _, Parser as _};
use cli::args::Cli;

use super::yaml::is_a_value_of_the_chart;
use super::{blocks, documents, quoted};

/// Verbs of kubectl that the documents use, with the options that they use of each.
const KUBECTL: &[(&str, &[&str])] = &[
    ("annotate", &["--overwrite"]),
    ("apply", &["-f", "--dry-run", "--prune", "--server-side"]),
    ("auth", &["--as", "--list"]),
    ("create", &["-f"]),
    ("delete", &["-f", "-l", "--wait"]),
    ("describe", &["-l"]),
    ("diff", &["-f"]),
    ("edit", &[]),
    ("events", &["--for", "--types", "--watch"]),
    ("exec", &["-c", "-i", "-t", "-it"]),
    ("explain", &["--recursive"]),
    (
        "get",
        &[
            "-o",
            "-l",
            "-w",
            "--raw",
            "--sort-by",
            "--show-labels",
            "--watch",
        ],
    ),
    ("label", &["--overwrite", "--all"]),
    (
        "logs",
        &[
            "-c",
            "-f",
            "-l",
            "--previous",
            "--tail",
            "--since",
            "--all-containers",
        ],
    ),
    ("patch", &["-p", "--type", "--subresource"]),
    ("port-forward", &["--address"]),
    ("rollout", &["--timeout", "-l"]),
    ("run", &["--image", "--rm", "-i", "-t", "-it", "--restart"]),
    ("scale", &["--replicas"]),
    ("wait", &["--for", "--timeout", "--all", "-l"]),
];

/// Of every verb.
const KUBECTL_GLOBAL: &[&str] = &["-n", "--namespace", "-A", "--all-namespaces", "--context"];

const HELM: &[(&str, &[&str])] = &[
    ("get", &["-a", "--all"]),
    ("history", &[]),
    ("install", HELM_INSTALL),
    ("list", &["-A"]),
    ("rollback", &["--wait"]),
    ("status", &[]),
    ("template", HELM_INSTALL),
    ("test", &["--logs"]),
    ("uninstall", &["--wait"]),
    ("upgrade", HELM_INSTALL),
];

const HELM_INSTALL: &[&str] = &[
    "--create-namespace",
    "--dry-run",
    "-f",
    "--install",
    "--reset-then-reuse-values",
    "--reuse-values",
    "--set",
    "--take-ownership",
    "--timeout",
    "--values",
    "--version",
    "--wait",
];

const HELM_GLOBAL: &[&str] = &["-n", "--namespace", "--kube-context"];

/// A command and its arguments, as a shell takes them apart.
type Command = Vec<String>;

/// The commands of a text for a shell: what stands between pipes, `&&`, `;` and line ends, in
/// substitutions too, without comments.
fn commands(text: &str) -> Vec<Command> {
    let mut all = vec![Command::new()];
    let (mut word, mut begun) = (String::new(), false);
    let (mut quote, mut comment) = (None, false);
    let mut characters = text.chars().peekable();
    let end_word = |all: &mut Vec<Command>, word: &mut String, begun: &mut bool| {
        if std::mem::take(begun)
            && let Some(last) = all.last_mut()
        {
            last.push(std::mem::take(word));
        }
    };
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\n', None) => {
                comment = false;
                end_word(&mut all, &mut word, &mut begun);
                all.push(Command::new());
            }
            _ if comment => {}
            ('\\', None) => match characters.next() {
                Some('\n') | None => {}
                Some(c) => {
                    word.push(c);
                    begun = true;
                }
            },
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.push(c),
            ('\'' | '"', None) => (quote, begun) = (Some(c), true),
            ('#', None) if !begun => comment = true,
            ('|' | ';' | '&' | '(' | ')', None) => {
                // What stands before a bracket is `$`, whose command becomes a word, or `<`, or nothing.
                if c == '(' {
                    begun = word == "$";
                    word = String::new();
                }
                end_word(&mut all, &mut word, &mut begun);
                all.push(Command::new());
            }
            (c, None) if c.is_whitespace() => end_word(&mut all, &mut word, &mut begun),
            (c, None) => {
                word.push(c);
                begun = true;
            }
        }
    }
    end_word(&mut all, &mut word, &mut begun);
    for command in &mut all {
        let until = command
            .iter()
            .position(|word| word.starts_with(['>', '<']) || word == "2>");
        let end = until.filter(|at| !command[*at].contains("://"));
        command.truncate(end.unwrap_or(command.len()));
        let assigned = |word: &String| word.contains('=') && !word.starts_with('-');
        let first = command.iter().position(|word| !assigned(word));
        command.drain(..first.unwrap_or(command.len()));
    }
    all.retain(|command| !command.is_empty());
    all
}

/// What a document's blocks say to type, each with the place of its block. `console` shows answers too:
/// there a line that begins with `$`, and those that go on with it.
fn typed() -> Vec<(String, Command)> {
    let mut all = Vec::new();
    for block in documents().iter().flat_map(blocks) {
        let text = match block.marked.as_str() {
            "sh" => block.text,
            "console" => {
                let (mut text, mut goes_on) = (String::new(), false);
                for line in block.text.lines() {
                    let command = line.strip_prefix("$ ");
                    if goes_on || command.is_some() {
                        let line = command.unwrap_or(line);
                        text.push_str(line);
                        text.push('\n');
                        goes_on = line.ends_with('\\');
                    }
                }
                text
            }
            _ => continue,
        };
        let found = commands(&text).into_iter();
        all.extend(found.map(|command| (block.place.clone(), command)));
    }
    all
}

/// Whether an option is one of these; what stands behind `=` is its value.
fn is_known(word: &str, known: &[&str]) -> bool {
    let option = word.split('=').next().unwrap_or(word);
    known.contains(&option)
}

/// What is wrong with a command of kubectl or helm.
fn foreign(command: &[String]) -> Result<(), String> {
    let (verbs, global) = match command.first().map(String::as_str) {
        Some("kubectl") => (KUBECTL, KUBECTL_GLOBAL),
        Some("helm") => (HELM, HELM_GLOBAL),
        _ => return Ok(()),
    };
    // What follows `--` is another program's.
    let mut words = command[1..].iter().take_while(|word| *word != "--");
    let mut verb = None;
    let mut said = Vec::new();
    while let Some(word) = words.next() {
        // `-` alone is standard input.
        if !word.starts_with('-') || word == "-" {
            if verb.is_none() {
                verb = Some(word.as_str());
            }
            continue;
        }
        said.push(word.clone());
        if ["-n", "--namespace", "--context", "--kube-context"].contains(&word.as_str()) {
            words.next();
        }
        if word == "--set" {
            let values = words.next().map(String::as_str).unwrap_or_default();
            for value in values.split(',') {
                let key = value.split('=').next().unwrap_or_default();
                if key != "KEY" && !is_a_value_of_the_chart(key) {
                    return Err(format!("the chart has no value {key}"));
                }
            }
        }
    }
    let Some(verb) = verb else {
        return Err("it has no verb".to_owned());
    };
    let Some((_, options)) = verbs.iter().find(|(known, _)| *known == verb) else {
        return Err(format!("{verb} is no verb"));
    };
    match said
        .iter()
        .find(|word| !is_known(word, options) && !is_known(word, global))
    {
        Some(word) => Err(format!("{verb} has no option {word}")),
        None => Ok(()),
    }
}

/// What is wrong with a command that is named within a sentence, where not all of it need be said.
fn named(words: &[String]) -> Result<(), String> {
    let mut command = Cli::command();
    for word in &words[1..] {
        let name = word.split('=').next().unwrap_or(word);
        if ["--help", "--version"].contains(&name) {
            continue;
        }
        if let Some(inner) = command.find_subcommand(word) {
            command = inner.clone();
        } else if name.starts_with('-') {
            let known = command.get_arguments().any(|argument| {
                let long = argument.get_long().map(|long| format!("--{long}"));
                let short = argument.get_short().map(|short| format!("-{short}"));
                long.as_deref() == Some(name) || short.as_deref() == Some(name)
            });
            if !known {
                return Err(format!("{} has no option {name}", command.get_name()));
            }
        } else if command.get_positionals().count() == 0 && word.chars().any(char::is_lowercase) {
            return Err(format!("{} has no {word}", command.get_name()));
        }
    }
    Ok(())
}

#[test]
fn every_command_that_a_document_says_to_type_is_one() {
    let (mut seen, mut problems) = (0, Vec::new());
    for (place, command) in typed() {
        let problem = match command[0].as_str() {
            "meshwright" => Cli::try_parse_from(&command)
                .map_err(|error| error.to_string())
                .err(),
            _ => foreign(&command).err(),
        };
        problems
            .extend(problem.map(|problem| format!("{place}: {}: {problem}", command.join(" "))));
        seen += usize::from(command[0] == "meshwright");
    }
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(seen > 60, "only {seen} commands were read");
}

#[test]
fn every_command_that_a_sentence_names_has_its_subcommands_and_options() {
    let (mut seen, mut problems) = (0, Vec::new());
    for document in documents() {
        for (line, span) in quoted(&document.text) {
            let programs = ["meshwright ", "kubectl ", "helm "];
            if !programs.iter().any(|program| span.starts_with(program)) || span.contains('…') {
                continue;
            }
            for command in commands(&span) {
                let problem = match command[0].as_str() {
                    "meshwright" => named(&command),
                    _ => foreign(&command),
                };
                let place = format!("{}:{line}: {span}", document.name);
                problems.extend(problem.err().map(|problem| format!("{place}: {problem}")));
                seen += 1;
            }
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(seen > 80, "only {seen} commands were read");
}

#[test]
fn a_command_that_does_not_exist_is_noticed() {
    let split = |text: &str| commands(text);
    assert_eq!(
        split(
            "# no\nA=1 helm list | kubectl apply \\\n  -f - # as said\nx --y='a b' > z\ns <(q r)\nt $(u)"
        ),
        [
            vec!["helm", "list"],
            vec!["kubectl", "apply", "-f", "-"],
            vec!["x", "--y=a b"],
            vec!["s"],
            vec!["q", "r"],
            vec!["t", ""],
            vec!["u"],
        ]
    );
    let words = |text: &str| split(text).remove(0);
    assert_eq!(
        named(&words("meshwright cache purge orders --path /a")),
        Ok(())
    );
    assert!(named(&words("meshwright cache burn")).is_err());
    assert!(named(&words("meshwright chek DIR")).is_err());
    assert!(named(&words("meshwright tap --flag")).is_err());
    assert!(Cli::try_parse_from(words("meshwright explain")).is_err());
    assert_eq!(foreign(&words("kubectl -n a get pods -o=yaml")), Ok(()));
    assert!(foreign(&words("kubectl fetch pods")).is_err());
    assert!(foreign(&words("kubectl get pods --outptu=yaml")).is_err());
    assert!(foreign(&words("helm upgrade m c --set operator.replica=1")).is_err());
}
