//! The runbook's script that restores the table deletes the present one: only when the backup that replaces it is complete. Its
//! commands are played by the shell, as AWS answers them.

use super::load::file;

/// An AWS with one table. `RESTORED` is the status that the table beside it stays in, `BACKUP` the one of the backup, and
/// `TAKEN` how the command that makes the backup ends.
const PLAYED: &str = r#"
    sleep() { :; }
    seq() { echo 1 2 3; }
    aws() {
      echo "$*" >> calls
      case "$1 $2 $*" in
        "lambda list-event-source-mappings "*) echo "one two" ;;
        "dynamodb describe-table "*"-past"*) echo "$RESTORED" ;;
        "dynamodb describe-table "*)
          # The first answer after a call has not heard of it yet.
          if [ -e back ]; then
            if [ -e asked ]; then echo ACTIVE; else touch asked; echo CREATING; fi
          elif [ -e deleted ] && [ -e going ]; then
            echo "An error occurred (ResourceNotFoundException)" >&2; return 254
          else
            touch going; echo DELETING
          fi ;;
        "dynamodb describe-continuous-backups "*)
          # Of a table that came a moment ago: not yet.
          if [ -e "backups-$4" ]; then echo ENABLED; else touch "backups-$4"; echo DISABLED; fi ;;
        "dynamodb create-backup "*) [ "$TAKEN" = 0 ] && echo arn:past; return "$TAKEN" ;;
        "dynamodb describe-backup "*) echo "$BACKUP" ;;
        "dynamodb delete-table "*) touch deleted ;;
        "dynamodb restore-table-from-backup "*) touch back ;;
      esac
    }
"#;

/// Plays the script; whether it says that it is done, and what it asked of AWS.
fn played(restored: &str, taken: &str, backup: &str) -> (bool, Vec<String>) {
    let runbook = file("docs/RUNBOOK.md");
    let page = runbook.split("\n## ").find(|page| page.starts_with("Restore the table\n")).unwrap();
    let script = page.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let script = script.replace("<output TableName>", "shops").replace("<output KeyArn>", "arn:key");
    let folder = tempfile::tempdir().unwrap();
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", &format!("{PLAYED}\n{script}")]).current_dir(&folder);
    shell.envs([("RESTORED", restored), ("TAKEN", taken), ("BACKUP", backup)]);
    let output = shell.output().unwrap();
    let done = String::from_utf8_lossy(&output.stdout).ends_with("restored\n");
    assert_eq!(output.status.success(), done, "{output:?}");
    let calls = std::fs::read_to_string(folder.path().join("calls")).unwrap();
    (done, calls.lines().map(str::to_owned).collect())
}

#[test]
fn nothing_is_deleted_before_the_backup_is_complete() {
    let bad = [("CREATING", "0", "AVAILABLE"), ("ACTIVE", "254", "AVAILABLE"), ("ACTIVE", "0", "CREATING")];
    for (restored, taken, backup) in bad {
        let (done, calls) = played(restored, taken, backup);
        assert!(!done, "{restored} {taken} {backup}");
        let touches = ["delete-table", "no-deletion-protection-enabled", "restore-table-from-backup"];
        let touched: Vec<_> = calls.iter().filter(|call| touches.iter().any(|word| call.contains(word))).collect();
        assert!(touched.is_empty(), "{restored} {taken} {backup}: {touched:?}");
    }
}

#[test]
fn the_restored_content_takes_the_name() {
    let (done, calls) = played("ACTIVE", "0", "AVAILABLE");
    assert!(done, "{calls:#?}");
    let at = |words: &str| {
        let found: Vec<_> =
            calls.iter().enumerate().filter(|(_, call)| call.contains(words)).map(|(at, _)| at).collect();
        assert!(!found.is_empty(), "{words}: {calls:#?}");
        (found[0], *found.last().unwrap())
    };
    let order = [
        at("update-event-source-mapping --uuid two --no-enabled"),
        at("restore-table-to-point-in-time --source-table-name shops --target-table-name shops-past"),
        at("describe-continuous-backups --table-name shops-past"),
        at("create-backup --table-name shops-past"),
        at("describe-backup --backup-arn arn:past"),
        at("PointInTimeRecoveryEnabled=false"),
        at("update-table --table-name shops --no-deletion-protection-enabled"),
        at("delete-table --table-name shops"),
        at("restore-table-from-backup --target-table-name shops --backup-arn arn:past"),
        at("update-table --table-name shops --deletion-protection-enabled"),
        at("update-time-to-live --table-name shops"),
        at("PointInTimeRecoveryEnabled=true"),
    ];
    assert!(order.is_sorted_by(|before, after| before.1 < after.0), "{calls:#?}");
    let deleted = calls.iter().filter(|call| call.contains("delete-table"));
    assert_eq!(deleted.collect::<Vec<_>>(), ["dynamodb delete-table --table-name shops"]);
    let asked = calls.iter().filter(|call| call.as_str() == "dynamodb describe-table --table-name shops").count();
    assert_eq!(asked, 2, "it waits until the old one is gone: {calls:#?}");
}
