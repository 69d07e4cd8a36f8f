# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_snapmark_global_optspecs
    string join \n h/help V/version
end

function __fish_snapmark_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_snapmark_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_snapmark_using_subcommand
    set -l cmd (__fish_snapmark_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c snapmark -n "__fish_snapmark_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_needs_command" -s V -l version -d 'Print version'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "init" -d 'Make a store'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "mount" -d 'Serve a store: its disks appear as files in MOUNTPOINT'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "unmount" -d 'End a mount: drain the cache and close the store'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "umount" -d 'End a mount: drain the cache and close the store'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "snapshot" -d 'Take a snapshot of disks, all at one point, while they are being written'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "snap" -d 'Take a snapshot of disks, all at one point, while they are being written'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "list" -d 'List disks and snapshots'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "ls" -d 'List disks and snapshots'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "delete" -d 'Delete snapshots or disks'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "rename" -d 'Rename a disk or a snapshot'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "rollback" -d 'Make a disk\'s content that of its snapshot'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "clone" -d 'Make a writable disk over a snapshot'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "resize" -d 'Change a disk\'s virtual size'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "priority" -d 'Set which disk leaves the cache first'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "flush" -d 'Move everything that is cached to the devices'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "status" -d 'Show the state of a mounted store'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "top" -d 'Watch rates and latencies'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "check" -d 'Check a store that is not mounted'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "scrub" -d 'Check all data of a mounted store while it is in use'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "scsi-snapshot" -d 'Take a snapshot of a disk by the SCSI command, over the network'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "device" -d 'Add and list the devices that give the pool its space'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "completions" -d 'Print completions for a shell'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "man" -d 'Print the man page, or write all of them to a directory'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "freeze-guard" -d 'Freeze file systems until told otherwise (used by \'snapshot --freeze\')'
complete -c snapmark -n "__fish_snapmark_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c snapmark -n "__fish_snapmark_using_subcommand init" -l size -d 'Size of the sparse backing file in the store; also of a --device that is to be made and has no SIZE of its own' -r
complete -c snapmark -n "__fish_snapmark_using_subcommand init" -l segment -d 'Unit of allocation: a power of two from 64KiB to 4MiB' -r
complete -c snapmark -n "__fish_snapmark_using_subcommand init" -l device -d 'A backing file (made with SIZE if it does not exist) or a block device; may be repeated' -r
complete -c snapmark -n "__fish_snapmark_using_subcommand init" -l journal -d 'Where the journal is; in the store unless given' -r -F
complete -c snapmark -n "__fish_snapmark_using_subcommand init" -l journal-size -d 'Bytes that the journal can hold' -r
complete -c snapmark -n "__fish_snapmark_using_subcommand init" -l cache-size -d 'Memory for writes that wait for the devices' -r
complete -c snapmark -n "__fish_snapmark_using_subcommand init" -l mode -d 'What acknowledged writes stand on' -r -f -a "journal\t'Every write is journaled before it is acknowledged: none is lost when the daemon dies'
volatile\t'Writes are acknowledged from memory: faster, and lost up to the last fsync when it dies'"
complete -c snapmark -n "__fish_snapmark_using_subcommand init" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand mount" -l iscsi -d 'Serve the disks over iSCSI too, at this address (port 3260 unless given); beyond this machine only with secrets, see \'iscsi\' in store.yaml' -r
complete -c snapmark -n "__fish_snapmark_using_subcommand mount" -s o -d 'Mount options as mount(8) gives them: allow_other, fsname=NAME; those of fstab are ignored' -r
complete -c snapmark -n "__fish_snapmark_using_subcommand mount" -s f -l foreground -d 'Stay in the foreground and log to standard error'
complete -c snapmark -n "__fish_snapmark_using_subcommand mount" -l background-child -d 'Added by the parent that starts the background process'
complete -c snapmark -n "__fish_snapmark_using_subcommand mount" -l allow-other -d 'Let other users see the mount; file permissions still apply'
complete -c snapmark -n "__fish_snapmark_using_subcommand mount" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand unmount" -s l -l lazy -d 'Detach it even while files in it are open'
complete -c snapmark -n "__fish_snapmark_using_subcommand unmount" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand umount" -s l -l lazy -d 'Detach it even while files in it are open'
complete -c snapmark -n "__fish_snapmark_using_subcommand umount" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand snapshot" -l name -d 'The name, where the last argument should not be taken for it' -r
complete -c snapmark -n "__fish_snapmark_using_subcommand snapshot" -l freeze -d 'Freeze the file systems that are loop-mounted from these disks for the moment'
complete -c snapmark -n "__fish_snapmark_using_subcommand snapshot" -l nosync -d 'Return before the marker would survive power loss'
complete -c snapmark -n "__fish_snapmark_using_subcommand snapshot" -l json -d 'Print JSON'
complete -c snapmark -n "__fish_snapmark_using_subcommand snapshot" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand snap" -l name -d 'The name, where the last argument should not be taken for it' -r
complete -c snapmark -n "__fish_snapmark_using_subcommand snap" -l freeze -d 'Freeze the file systems that are loop-mounted from these disks for the moment'
complete -c snapmark -n "__fish_snapmark_using_subcommand snap" -l nosync -d 'Return before the marker would survive power loss'
complete -c snapmark -n "__fish_snapmark_using_subcommand snap" -l json -d 'Print JSON'
complete -c snapmark -n "__fish_snapmark_using_subcommand snap" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand list" -l snapshots -d 'Only snapshots'
complete -c snapmark -n "__fish_snapmark_using_subcommand list" -l json -d 'Print JSON'
complete -c snapmark -n "__fish_snapmark_using_subcommand list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand ls" -l snapshots -d 'Only snapshots'
complete -c snapmark -n "__fish_snapmark_using_subcommand ls" -l json -d 'Print JSON'
complete -c snapmark -n "__fish_snapmark_using_subcommand ls" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand delete" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand rename" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand rollback" -l force -d 'Also while the disk is open'
complete -c snapmark -n "__fish_snapmark_using_subcommand rollback" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand clone" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand resize" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand priority" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand flush" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand status" -l json -d 'Print JSON'
complete -c snapmark -n "__fish_snapmark_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand top" -s i -l interval -d 'Seconds between two looks' -r
complete -c snapmark -n "__fish_snapmark_using_subcommand top" -s n -l iterations -d 'How many times; for ever unless given' -r
complete -c snapmark -n "__fish_snapmark_using_subcommand top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand check" -l data -d 'Read every block of data, too, and compare it with its checksum'
complete -c snapmark -n "__fish_snapmark_using_subcommand check" -l repair -d 'Mend what can be mended without guessing'
complete -c snapmark -n "__fish_snapmark_using_subcommand check" -l drop-journal-tail -d 'Give up what can\'t be replayed of a damaged journal: the writes after the damage are lost'
complete -c snapmark -n "__fish_snapmark_using_subcommand check" -l json -d 'Print JSON'
complete -c snapmark -n "__fish_snapmark_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand scrub" -l rate -d 'Bytes a second at the most, instead of the rate of the settings; 0 is no limit' -r
complete -c snapmark -n "__fish_snapmark_using_subcommand scrub" -l background -d 'Do not wait for its end'
complete -c snapmark -n "__fish_snapmark_using_subcommand scrub" -l pause -d 'Let it wait where it is'
complete -c snapmark -n "__fish_snapmark_using_subcommand scrub" -l resume -d 'Let it go on'
complete -c snapmark -n "__fish_snapmark_using_subcommand scrub" -l stop -d 'End it'
complete -c snapmark -n "__fish_snapmark_using_subcommand scrub" -l status -d 'Show how far it is'
complete -c snapmark -n "__fish_snapmark_using_subcommand scrub" -l json -d 'Print JSON'
complete -c snapmark -n "__fish_snapmark_using_subcommand scrub" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand scsi-snapshot" -l portal -d 'Where the target is; port 3260 unless given' -r
complete -c snapmark -n "__fish_snapmark_using_subcommand scsi-snapshot" -l target -d 'The disk\'s target' -r
complete -c snapmark -n "__fish_snapmark_using_subcommand scsi-snapshot" -l initiator -d 'The name to log in with' -r
complete -c snapmark -n "__fish_snapmark_using_subcommand scsi-snapshot" -l user -d 'The user, where the target wants CHAP' -r
complete -c snapmark -n "__fish_snapmark_using_subcommand scsi-snapshot" -l secret-file -d 'A file whose first line is the user\'s secret, and that nobody else may read' -r -F
complete -c snapmark -n "__fish_snapmark_using_subcommand scsi-snapshot" -l all -d 'Of all disks that the initiator has sessions with, at one point'
complete -c snapmark -n "__fish_snapmark_using_subcommand scsi-snapshot" -l nosync -d 'Return before the snapshot would survive power loss'
complete -c snapmark -n "__fish_snapmark_using_subcommand scsi-snapshot" -l list -d 'List the targets there, and take no snapshot'
complete -c snapmark -n "__fish_snapmark_using_subcommand scsi-snapshot" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand device; and not __fish_seen_subcommand_from add list help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand device; and not __fish_seen_subcommand_from add list help" -f -a "add" -d 'Give the pool another device; its space can be used at once'
complete -c snapmark -n "__fish_snapmark_using_subcommand device; and not __fish_seen_subcommand_from add list help" -f -a "list" -d 'Show the devices'
complete -c snapmark -n "__fish_snapmark_using_subcommand device; and not __fish_seen_subcommand_from add list help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c snapmark -n "__fish_snapmark_using_subcommand device; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help'
complete -c snapmark -n "__fish_snapmark_using_subcommand device; and __fish_seen_subcommand_from list" -l json -d 'Print JSON'
complete -c snapmark -n "__fish_snapmark_using_subcommand device; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c snapmark -n "__fish_snapmark_using_subcommand device; and __fish_seen_subcommand_from help" -f -a "add" -d 'Give the pool another device; its space can be used at once'
complete -c snapmark -n "__fish_snapmark_using_subcommand device; and __fish_seen_subcommand_from help" -f -a "list" -d 'Show the devices'
complete -c snapmark -n "__fish_snapmark_using_subcommand device; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c snapmark -n "__fish_snapmark_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand man" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand freeze-guard" -s h -l help -d 'Print help'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "init" -d 'Make a store'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "mount" -d 'Serve a store: its disks appear as files in MOUNTPOINT'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "unmount" -d 'End a mount: drain the cache and close the store'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "snapshot" -d 'Take a snapshot of disks, all at one point, while they are being written'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "list" -d 'List disks and snapshots'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "delete" -d 'Delete snapshots or disks'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "rename" -d 'Rename a disk or a snapshot'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "rollback" -d 'Make a disk\'s content that of its snapshot'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "clone" -d 'Make a writable disk over a snapshot'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "resize" -d 'Change a disk\'s virtual size'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "priority" -d 'Set which disk leaves the cache first'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "flush" -d 'Move everything that is cached to the devices'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "status" -d 'Show the state of a mounted store'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "top" -d 'Watch rates and latencies'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "check" -d 'Check a store that is not mounted'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "scrub" -d 'Check all data of a mounted store while it is in use'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "scsi-snapshot" -d 'Take a snapshot of a disk by the SCSI command, over the network'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "device" -d 'Add and list the devices that give the pool its space'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "completions" -d 'Print completions for a shell'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "man" -d 'Print the man page, or write all of them to a directory'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "freeze-guard" -d 'Freeze file systems until told otherwise (used by \'snapshot --freeze\')'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and not __fish_seen_subcommand_from init mount unmount snapshot list delete rename rollback clone resize priority flush status top check scrub scsi-snapshot device completions man freeze-guard help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and __fish_seen_subcommand_from device" -f -a "add" -d 'Give the pool another device; its space can be used at once'
complete -c snapmark -n "__fish_snapmark_using_subcommand help; and __fish_seen_subcommand_from device" -f -a "list" -d 'Show the devices'
