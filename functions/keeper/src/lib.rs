//! On a schedule: refreshes what would die, retention, deadlines.
