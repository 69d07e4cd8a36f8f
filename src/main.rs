//! The `snapmark` program.

fn main() -> std::process::ExitCode {
    snapmark::cli::main()
}
