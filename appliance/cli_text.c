/*
 * Sizes, ages, times and tables for people; and forgiving access to JSON: a newer daemon's answer
 * shall not break an older command line.
 */
#include <cjson/cJSON.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "appliance/cli.h"
#include "common/bytes.h"

const char *cli_size(uint64_t bytes, char text[static CLI_TEXT_BYTES])
{
	static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	if (bytes < KIB) {
		snprintf(text, CLI_TEXT_BYTES, "%u B", (unsigned)bytes);
		return text;
	}
	double value = (double)bytes / 1024;
	unsigned unit = 0;
	for (; value >= 999.5 && unit + 1 < ARRAY_SIZE(units); unit++)
		value /= 1024;
	snprintf(text, CLI_TEXT_BYTES, "%.*f %s",
		value < 9.995   ? 2
		: value < 99.95 ? 1
				: 0,
		value, units[unit]);
	return text;
}

const char *cli_duration(double seconds, char text[static CLI_TEXT_BYTES])
{
	uint64_t s = seconds > 0 ? (uint64_t)(seconds + 0.5) : 0;
	unsigned long long minutes = s / 60, hours = s / 3600, days = s / 86400;
	if (seconds > 0 && seconds < 9.95)
		snprintf(text, CLI_TEXT_BYTES, "%.1f s", seconds);
	else if (s < 60)
		snprintf(text, CLI_TEXT_BYTES, "%u s", (unsigned)s);
	else if (hours == 0)
		snprintf(text, CLI_TEXT_BYTES, "%llu min %u s", minutes, (unsigned)(s % 60));
	else if (days == 0)
		snprintf(text, CLI_TEXT_BYTES, "%llu h %llu min", hours, minutes % 60);
	else
		snprintf(text, CLI_TEXT_BYTES, "%llu d %llu h", days, hours % 24);
	return text;
}

/* 2026-11-22T05:54:11.123456789Z → 2026-11-22 05:54:11Z */
const char *cli_time(const char *iso, char text[static CLI_TEXT_BYTES])
{
	snprintf(text, CLI_TEXT_BYTES, "%.19s%s", iso, strlen(iso) > 19 ? "Z" : "");
	if (strlen(text) > 10 && text[10] == 'T')
		text[10] = ' ';
	return *text ? text : "-";
}

const cJSON *cli_get(const cJSON *json, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, name);
	return cJSON_IsNull(item) ? NULL : item;
}

bool cli_has(const cJSON *json, const char *name)
{
	return cli_get(json, name) != NULL;
}

const char *cli_get_text(const cJSON *json, const char *name)
{
	const cJSON *item = cli_get(json, name);
	return cJSON_IsString(item) ? item->valuestring : "";
}

uint64_t cli_get_u64(const cJSON *json, const char *name)
{
	const cJSON *item = cli_get(json, name);
	if (cJSON_IsString(item))
		return strtoull(item->valuestring, NULL, 10);
	double value = cJSON_IsNumber(item) ? item->valuedouble : 0;
	return value > 0 && value < 1.8e19 ? (uint64_t)value : 0;
}

double cli_get_number(const cJSON *json, const char *name)
{
	const cJSON *item = cli_get(json, name);
	if (cJSON_IsString(item))
		return strtod(item->valuestring, NULL);
	return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

bool cli_get_bool(const cJSON *json, const char *name)
{
	return cJSON_IsTrue(cli_get(json, name));
}

const char *cli_get_size(const cJSON *json, const char *name, char text[static CLI_TEXT_BYTES])
{
	return cli_has(json, name) ? cli_size(cli_get_u64(json, name), text) : "-";
}

const char *cli_get_count(const cJSON *json, const char *name, char text[static CLI_TEXT_BYTES])
{
	snprintf(text, CLI_TEXT_BYTES, "%llu", (unsigned long long)cli_get_u64(json, name));
	return text;
}

const char *cli_get_rate(const cJSON *json, const char *name, char text[static CLI_TEXT_BYTES])
{
	if (!cli_has(json, name))
		return "-";
	cli_size(cli_get_u64(json, name), text);
	strcat(text, "/s");
	return text;
}

const char *cli_get_age(const cJSON *json, const char *name, char text[static CLI_TEXT_BYTES])
{
	return cli_has(json, name) ? cli_duration(cli_get_number(json, name), text) : "-";
}

void cli_print_safe(FILE *out, const char *text)
{
	for (; *text; text++)
		fputc((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text, out);
}

void cli_print_field(const char *name, const char *value)
{
	printf("%-18s ", name);
	cli_print_safe(stdout, value && *value ? value : "-");
	putchar('\n');
}

struct cli_table {
	unsigned columns, count, room;
	char **cells;
	bool right[16];
};

/* A client that cannot get a few bytes has nothing better to do than to end. */
static void *must(void *memory)
{
	if (!memory) {
		fputs("landfall: no memory\n", stderr);
		exit(EXIT_FAILED);
	}
	return memory;
}

struct cli_table *cli_table_new(unsigned columns, const char *const *headings)
{
	struct cli_table *table = must(calloc(1, sizeof(*table)));
	table->columns = MIN(columns, (unsigned)ARRAY_SIZE(table->right));
	for (unsigned i = 0; i < table->columns; i++) {
		table->right[i] = headings[i][0] == '>';
		cli_table_add(table, headings[i] + table->right[i]);
	}
	return table;
}

void cli_table_add(struct cli_table *table, const char *cell)
{
	if (table->count == table->room) {
		table->room = table->room ? table->room * 2 : 64;
		table->cells = must(reallocarray(table->cells, table->room, sizeof(char *)));
	}
	table->cells[table->count++] = must(strdup(cell && *cell ? cell : "-"));
}

/* Characters, not bytes: continuation bytes of UTF-8 take no room. */
static unsigned width_of(const char *text)
{
	unsigned width = 0;
	for (; *text; text++)
		width += ((unsigned char)*text & 0xc0) != 0x80;
	return width;
}

static void print_cell(const struct cli_table *table, unsigned i, unsigned width, FILE *out)
{
	const char *cell = table->cells[i];
	unsigned column = i % table->columns;
	int padding = (int)(width - width_of(cell));
	if (table->right[column])
		fprintf(out, "%*s", padding, "");
	cli_print_safe(out, cell);
	if (column + 1 == table->columns)
		fputc('\n', out);
	else
		fprintf(out, "%*s", table->right[column] ? 2 : padding + 2, "");
}

void cli_table_print(struct cli_table *table, FILE *out)
{
	unsigned widths[ARRAY_SIZE(table->right)] = { 0 };
	for (unsigned i = 0; i < table->count; i++) {
		unsigned column = i % table->columns;
		widths[column] = MAX(widths[column], width_of(table->cells[i]));
	}
	for (unsigned i = 0; i < table->count; i++) {
		print_cell(table, i, widths[i % table->columns], out);
		free(table->cells[i]);
	}
	free(table->cells);
	free(table);
}

void cli_print_rows(const struct cli_rows *rows, const cJSON *items)
{
	unsigned columns = 0;
	while (rows->headings[columns])
		columns++;
	struct cli_table *table = cli_table_new(columns, rows->headings);
	const cJSON *item;
	cJSON_ArrayForEach(item, items) rows->add(table, item);
	cli_table_print(table, stdout);
}
