/*
 * The part of libcjson that Landfall uses, for programs that are linked statically: Debian has that
 * library as a shared one only. The interface and struct cJSON are those of its header, and what is
 * printed looks as it does there.
 *
 * A list of children is linked forwards; the first one's `prev` is the last. Memory is malloc's.
 * Texts that are parsed have passed json_check; whatever does not fit is refused all the same. Any
 * thread; a tree belongs to one at a time.
 */
#include <cjson/cJSON.h>
#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX CJSON_NESTING_LIMIT
#define NUMBER_BYTES 64
#define TYPE(node) ((node) ? (node)->type & 0xff : cJSON_Invalid)

/* ── trees ───────────────────────────────────────────────────────────────────────────────── */

static cJSON *new_node(int type)
{
	cJSON *node = calloc(1, sizeof(*node));
	if (node)
		node->type = type;
	return node;
}

void cJSON_Delete(cJSON *item)
{
	while (item) {
		cJSON *next = item->next;
		cJSON_Delete(item->child);
		free(item->valuestring);
		free(item->string);
		free(item);
		item = next;
	}
}

void cJSON_free(void *object)
{
	free(object);
}

cJSON *cJSON_CreateObject(void)
{
	return new_node(cJSON_Object);
}

cJSON *cJSON_CreateArray(void)
{
	return new_node(cJSON_Array);
}

cJSON *cJSON_CreateBool(cJSON_bool boolean)
{
	return new_node(boolean ? cJSON_True : cJSON_False);
}

static void set_number(cJSON *node, double value)
{
	node->valuedouble = value;
	node->valueint = value >= INT_MAX           ? INT_MAX
			 : value <= (double)INT_MIN ? INT_MIN
						    : (int)value;
}

cJSON *cJSON_CreateNumber(double number)
{
	cJSON *node = new_node(cJSON_Number);
	if (node)
		set_number(node, number);
	return node;
}

cJSON *cJSON_CreateString(const char *string)
{
	cJSON *node = new_node(cJSON_String);
	if (!node)
		return NULL;
	node->valuestring = strdup(string);
	if (!node->valuestring) {
		free(node);
		return NULL;
	}
	return node;
}

static void append(cJSON *parent, cJSON *item)
{
	cJSON *first = parent->child;
	item->next = NULL;
	if (!first) {
		parent->child = item->prev = item;
		return;
	}
	item->prev = first->prev;
	first->prev->next = item;
	first->prev = item;
}

cJSON_bool cJSON_AddItemToArray(cJSON *array, cJSON *item)
{
	if (!array || !item || array == item)
		return false;
	append(array, item);
	return true;
}

cJSON_bool cJSON_AddItemToObject(cJSON *object, const char *string, cJSON *item)
{
	if (!object || !string || !item || object == item)
		return false;
	char *name = strdup(string);
	if (!name)
		return false;
	free(item->string);
	item->string = name;
	append(object, item);
	return true;
}

static cJSON *add_new(cJSON *object, const char *name, cJSON *item)
{
	if (cJSON_AddItemToObject(object, name, item))
		return item;
	cJSON_Delete(item);
	return NULL;
}

cJSON *cJSON_AddNullToObject(cJSON *const object, const char *const name)
{
	return add_new(object, name, new_node(cJSON_NULL));
}

cJSON *cJSON_AddNumberToObject(cJSON *const object, const char *const name, const double number)
{
	return add_new(object, name, cJSON_CreateNumber(number));
}

cJSON *cJSON_GetObjectItemCaseSensitive(const cJSON *const object, const char *const string)
{
	cJSON *item = object && string ? object->child : NULL;
	while (item && (!item->string || strcmp(item->string, string) != 0))
		item = item->next;
	return item;
}

cJSON_bool cJSON_IsObject(const cJSON *const item)
{
	return TYPE(item) == cJSON_Object;
}

cJSON_bool cJSON_IsArray(const cJSON *const item)
{
	return TYPE(item) == cJSON_Array;
}

cJSON_bool cJSON_IsString(const cJSON *const item)
{
	return TYPE(item) == cJSON_String;
}

cJSON_bool cJSON_IsNumber(const cJSON *const item)
{
	return TYPE(item) == cJSON_Number;
}

cJSON_bool cJSON_IsNull(const cJSON *const item)
{
	return TYPE(item) == cJSON_NULL;
}

cJSON_bool cJSON_IsTrue(const cJSON *const item)
{
	return TYPE(item) == cJSON_True;
}

cJSON_bool cJSON_IsBool(const cJSON *const item)
{
	return (TYPE(item) & (cJSON_True | cJSON_False)) != 0;
}

/* ── reading ─────────────────────────────────────────────────────────────────────────────── */

struct input {
	const char *at, *end;
	unsigned depth;
};

static void skip_blanks(struct input *in)
{
	while (in->at < in->end && (unsigned char)*in->at <= ' ')
		in->at++;
}

/* Takes `c`, after blanks, if it is next. */
static bool take(struct input *in, char c)
{
	skip_blanks(in);
	if (in->at == in->end || *in->at != c)
		return false;
	in->at++;
	return true;
}

static bool take_word(struct input *in, const char *word)
{
	size_t n = strlen(word);
	if ((size_t)(in->end - in->at) < n || memcmp(in->at, word, n) != 0)
		return false;
	in->at += n;
	return true;
}

/* Four hexadecimal digits. */
static bool take_unit(struct input *in, unsigned *ret_unit)
{
	unsigned unit = 0;
	for (unsigned i = 0; i < 4; i++) {
		if (in->at == in->end)
			return false;
		unsigned char c = (unsigned char)*in->at++;
		if (c >= '0' && c <= '9')
			unit = unit << 4 | (c - '0');
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			unit = unit << 4 | ((c | 0x20u) - 'a' + 10);
		else
			return false;
	}
	*ret_unit = unit;
	return true;
}

static char *put_utf8(char *out, uint32_t c)
{
	if (c < 0x80) {
		*out++ = (char)c;
	} else if (c < 0x800) {
		*out++ = (char)(0xc0 | c >> 6);
		*out++ = (char)(0x80 | (c & 0x3f));
	} else if (c < 0x10000) {
		*out++ = (char)(0xe0 | c >> 12);
		*out++ = (char)(0x80 | (c >> 6 & 0x3f));
		*out++ = (char)(0x80 | (c & 0x3f));
	} else {
		*out++ = (char)(0xf0 | c >> 18);
		*out++ = (char)(0x80 | (c >> 12 & 0x3f));
		*out++ = (char)(0x80 | (c >> 6 & 0x3f));
		*out++ = (char)(0x80 | (c & 0x3f));
	}
	return out;
}

/* After \u. */
static bool take_code_point(struct input *in, char **out)
{
	unsigned high, low;
	if (!take_unit(in, &high) || high == 0 || (high >= 0xdc00 && high < 0xe000))
		return false;
	if (high < 0xd800 || high >= 0xe000) {
		*out = put_utf8(*out, high);
		return true;
	}
	if (!take_word(in, "\\u") || !take_unit(in, &low) || low < 0xdc00 || low >= 0xe000)
		return false;
	*out = put_utf8(*out, 0x10000u + ((high - 0xd800u) << 10 | (low - 0xdc00u)));
	return true;
}

static bool take_escape(struct input *in, char **out)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	if (in->at == in->end)
		return false;
	char c = *in->at++;
	if (c == 'u')
		return take_code_point(in, out);
	const char *found = c ? strchr(from, c) : NULL;
	if (!found)
		return false;
	*(*out)++ = to[found - from];
	return true;
}

/* A string's text, malloc'ed; nothing that is escaped gets longer by that. NULL: it is none. */
static char *take_string(struct input *in)
{
	if (!take(in, '"'))
		return NULL;
	const char *close = in->at;
	while (close < in->end && *close != '"')
		close += *close == '\\' ? 2 : 1;
	if (close >= in->end)
		return NULL;
	char *text = malloc((size_t)(close - in->at) + 1), *out = text;
	bool fits = text != NULL;
	while (fits && in->at < close) {
		if (*in->at == '\\') {
			in->at++;
			fits = take_escape(in, &out);
		} else {
			*out++ = *in->at++;
		}
	}
	if (!fits || in->at != close) {
		free(text);
		return NULL;
	}
	in->at++;
	*out = '\0';
	return text;
}

static bool take_number(struct input *in, cJSON *node)
{
	char room[NUMBER_BYTES], *end;
	size_t n = 0;
	while (in->at + n < in->end && strchr("0123456789+-.eE", in->at[n]) && in->at[n])
		n++;
	char *text = n < sizeof(room) ? room : malloc(n + 1);
	if (!text)
		return false;
	memcpy(text, in->at, n);
	text[n] = '\0';
	set_number(node, strtod(text, &end));
	bool all = n > 0 && *end == '\0';
	if (text != room)
		free(text);
	in->at += n;
	return all;
}

static bool take_value(struct input *in, cJSON *node);

/* After the bracket; `named`: of an object. */
static bool take_children(struct input *in, cJSON *parent, bool named, char close)
{
	if (take(in, close))
		return true;
	do {
		cJSON *child = new_node(cJSON_Invalid);
		if (!child)
			return false;
		append(parent, child);
		if (named) {
			child->string = take_string(in);
			if (!child->string || !take(in, ':'))
				return false;
		}
		if (!take_value(in, child))
			return false;
	} while (take(in, ','));
	return take(in, close);
}

static bool take_nested(struct input *in, cJSON *node, bool object)
{
	if (in->depth == DEPTH_MAX)
		return false;
	in->depth++;
	node->type = object ? cJSON_Object : cJSON_Array;
	bool fits = take_children(in, node, object, object ? '}' : ']');
	in->depth--;
	return fits;
}

static bool take_value(struct input *in, cJSON *node)
{
	skip_blanks(in);
	if (in->at == in->end)
		return false;
	if (*in->at == '"') {
		node->type = cJSON_String;
		node->valuestring = take_string(in);
		return node->valuestring != NULL;
	}
	if (take(in, '{'))
		return take_nested(in, node, true);
	if (take(in, '['))
		return take_nested(in, node, false);
	if (take_word(in, "null")) {
		node->type = cJSON_NULL;
		return true;
	}
	if (take_word(in, "true")) {
		node->type = cJSON_True;
		return true;
	}
	if (take_word(in, "false")) {
		node->type = cJSON_False;
		return true;
	}
	node->type = cJSON_Number;
	return take_number(in, node);
}

cJSON *cJSON_ParseWithLength(const char *value, size_t buffer_length)
{
	struct input in = { .at = value, .end = value + buffer_length };
	cJSON *root = value ? new_node(cJSON_Invalid) : NULL;
	if (root && !take_value(&in, root)) {
		cJSON_Delete(root);
		return NULL;
	}
	return root;
}

/* ── printing ────────────────────────────────────────────────────────────────────────────── */

static void print_text(FILE *out, const char *text)
{
	static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
	fputc('"', out);
	for (; *text; text++) {
		const char *found = strchr(from, *text);
		if (found)
			fprintf(out, "\\%c", to[found - from]);
		else if ((unsigned char)*text < ' ')
			fprintf(out, "\\u%04x", (unsigned)(unsigned char)*text);
		else
			fputc(*text, out);
	}
	fputc('"', out);
}

/* In the fewest digits of 15 and 17 that read back as the same. */
static void print_number(FILE *out, double value)
{
	char text[32];
	if (isnan(value) || isinf(value)) {
		fputs("null", out);
		return;
	}
	snprintf(text, sizeof(text), "%1.15g", value);
	if (strtod(text, NULL) < value || strtod(text, NULL) > value)
		snprintf(text, sizeof(text), "%1.17g", value);
	fputs(text, out);
}

static void indent(FILE *out, unsigned depth)
{
	while (depth-- > 0)
		fputc('\t', out);
}

static void print_value(FILE *out, const cJSON *node, bool formatted, unsigned depth);

static void print_object(FILE *out, const cJSON *node, bool formatted, unsigned depth)
{
	fputs(formatted ? "{\n" : "{", out);
	for (const cJSON *child = node->child; child; child = child->next) {
		if (formatted)
			indent(out, depth + 1);
		print_text(out, child->string);
		fputs(formatted ? ":\t" : ":", out);
		print_value(out, child, formatted, depth + 1);
		if (child->next)
			fputc(',', out);
		if (formatted)
			fputc('\n', out);
	}
	if (formatted)
		indent(out, depth);
	fputc('}', out);
}

static void print_value(FILE *out, const cJSON *node, bool formatted, unsigned depth)
{
	switch (TYPE(node)) {
	case cJSON_Object:
		print_object(out, node, formatted, depth);
		break;
	case cJSON_Array:
		fputc('[', out);
		for (const cJSON *child = node->child; child; child = child->next) {
			print_value(out, child, formatted, depth + 1);
			if (child->next)
				fputs(formatted ? ", " : ",", out);
		}
		fputc(']', out);
		break;
	case cJSON_String:
		print_text(out, node->valuestring);
		break;
	case cJSON_Number:
		print_number(out, node->valuedouble);
		break;
	default:
		fputs(cJSON_IsTrue(node) ? "true" : cJSON_IsBool(node) ? "false" : "null", out);
	}
}

static char *print(const cJSON *node, bool formatted)
{
	char *text = NULL;
	size_t n;
	FILE *out = node ? open_memstream(&text, &n) : NULL;
	if (!out)
		return NULL;
	print_value(out, node, formatted, 0);
	bool failed = ferror(out);
	if (fclose(out) != 0 || failed) {
		free(text);
		return NULL;
	}
	return text;
}

char *cJSON_Print(const cJSON *item)
{
	return print(item, true);
}

char *cJSON_PrintUnformatted(const cJSON *item)
{
	return print(item, false);
}
