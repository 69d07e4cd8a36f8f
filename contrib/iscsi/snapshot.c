/* Takes a snapshot of a Snapmark disk over iSCSI, with libiscsi:
 *
 *   cc -o snapshot snapshot.c -liscsi
 *   ./snapshot iscsi://192.0.2.1:3260/iqn.2026-11.io.snapmark:store:db.img/0 before-upgrade
 *
 * The command is described in snapshot-command.md. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

static struct scsi_task *take(struct iscsi_context *iscsi, int lun, const char *name)
{
	struct scsi_task *task = calloc(1, sizeof(*task));
	struct iscsi_data data = { .size = strlen(name), .data = (unsigned char *)name };

	if (task == NULL)
		return NULL;
	task->cdb[0] = 0xc1;
	task->cdb[7] = data.size >> 8;
	task->cdb[8] = data.size & 0xff;
	task->cdb_size = 10;
	task->xfer_dir = data.size > 0 ? SCSI_XFER_WRITE : SCSI_XFER_NONE;
	task->expxferlen = data.size;
	return iscsi_scsi_command_sync(iscsi, lun, task, data.size > 0 ? &data : NULL);
}

int main(int argc, char **argv)
{
	struct iscsi_context *iscsi;
	struct iscsi_url *url;
	struct scsi_task *task;
	int failed = 1;

	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: %s iscsi://HOST:PORT/TARGET/0 [NAME]\n", argv[0]);
		return 2;
	}
	iscsi = iscsi_create_context("iqn.2026-11.io.snapmark:snapshot-c");
	if (iscsi == NULL)
		return 1;
	url = iscsi_parse_full_url(iscsi, argv[1]);
	if (url == NULL) {
		fprintf(stderr, "%s\n", iscsi_get_error(iscsi));
		iscsi_destroy_context(iscsi);
		return 2;
	}
	iscsi_set_targetname(iscsi, url->target);
	iscsi_set_session_type(iscsi, ISCSI_SESSION_NORMAL);
	iscsi_set_header_digest(iscsi, ISCSI_HEADER_DIGEST_NONE_CRC32C);
	/* Tells what a new session is told first, and so takes it out of the way. */
	if (iscsi_full_connect_sync(iscsi, url->portal, url->lun) == 0) {
		task = take(iscsi, url->lun, argc == 3 ? argv[2] : "");
		failed = task == NULL || task->status != SCSI_STATUS_GOOD;
		if (failed)
			fprintf(stderr, "no snapshot: %s\n", iscsi_get_error(iscsi));
		scsi_free_scsi_task(task);
		iscsi_logout_sync(iscsi);
	} else {
		fprintf(stderr, "can't log in: %s\n", iscsi_get_error(iscsi));
	}
	iscsi_destroy_url(url);
	iscsi_destroy_context(iscsi);
	return failed;
}
